//! Netlink requests and dumps (netlink(7), rtnetlink(7)) whose attributes stay bytes: what the kernel has dumped goes back
//! to it whole, with the attributes that we do not know.

use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_ALIGNTO,
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    NlasIterator,
};
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

/// More than the kernel puts into one answer.
const BUFFER: usize = 64 * 1024;

/// What follows a netlink header: the fixed structure of the message's kind, then attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Body {
    /// `struct ifinfomsg`, `struct rtmsg`, …
    pub(crate) fixed: Vec<u8>,
    /// Type with its flags, and value.
    pub(crate) attributes: Vec<(u16, Vec<u8>)>,
}

impl Body {
    fn parse(bytes: &[u8], fixed: usize) -> io::Result<Body> {
        let short = || io::Error::new(io::ErrorKind::InvalidData, "a short netlink message");
        let attributes = NlasIterator::new(bytes.get(fixed..).ok_or_else(short)?)
            .map(|attribute| {
                let attribute = attribute.map_err(io::Error::other)?;
                let nested = if attribute.nested_flag() {
                    NLA_F_NESTED
                } else {
                    0
                };
                Ok((attribute.kind() | nested, attribute.value().to_vec()))
            })
            .collect::<io::Result<_>>()?;
        Ok(Body {
            fixed: bytes[..fixed].to_vec(),
            attributes,
        })
    }

    fn bytes(&self) -> Vec<u8> {
        let attributes: Vec<_> = self
            .attributes
            .iter()
            .map(|(kind, value)| DefaultNla::new(*kind, value.clone()))
            .collect();
        let attributes = attributes.as_slice();
        let mut bytes = self.fixed.clone();
        bytes.resize(self.fixed.len() + attributes.buffer_len(), 0);
        attributes.emit(&mut bytes[self.fixed.len()..]);
        bytes
    }

    /// The value of the attribute of type `kind`.
    pub(crate) fn attribute(&self, kind: u16) -> Option<&[u8]> {
        self.attributes
            .iter()
            .find(|(other, _)| other & !NLA_F_NESTED == kind)
            .map(|(_, value)| value.as_slice())
    }

    /// The same as a number of 32 bits.
    pub(crate) fn number(&self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.attribute(kind)?.try_into().ok()?))
    }

    /// The 32 bits at `offset` of the fixed structure; 0 beyond its end.
    pub(crate) fn word(&self, offset: usize) -> u32 {
        let bytes = self.fixed.get(offset..offset + 4);
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u32::from_ne_bytes)
    }

    /// Sets them.
    pub(crate) fn set_word(&mut self, offset: usize, value: u32) {
        self.fixed[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }

    /// Leaves out the attributes of these types.
    pub(crate) fn without(mut self, kinds: &[u16]) -> Body {
        self.attributes
            .retain(|(kind, _)| !kinds.contains(&(kind & !NLA_F_NESTED)));
        self
    }
}

/// A message's payload as the library carries it.
#[derive(Debug)]
struct Raw {
    kind: u16,
    bytes: Vec<u8>,
}

impl NetlinkSerializable for Raw {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes);
    }
}

impl NetlinkDeserializable for Raw {
    type Error = std::convert::Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Raw, Self::Error> {
        Ok(Raw {
            kind: header.message_type,
            bytes: payload.to_vec(),
        })
    }
}

/// A socket in the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Opens one for NETLINK_ROUTE in this thread's network namespace.
    pub(crate) fn route() -> io::Result<Socket> {
        Socket::open(None)
    }

    /// The same for NETLINK_NETFILTER.
    pub(crate) fn netfilter() -> io::Result<Socket> {
        Socket::open(Some(NETFILTER))
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> io::Result<Socket> {
        let (family, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
        let fd = socket_with(family, SocketType::RAW, flags, protocol)?;
        Ok(Socket { fd, sequence: 0 })
    }

    /// All that the kernel has of message type `kind`, asked with the structure `fixed`, which its answers begin with, too.
    pub(crate) fn dump(&mut self, kind: u16, fixed: &[u8]) -> io::Result<Vec<Body>> {
        let mut all = Vec::new();
        self.exchange(kind, NLM_F_DUMP, fixed.to_vec(), |bytes| {
            all.push(Body::parse(bytes, fixed.len())?);
            Ok(())
        })?;
        Ok(all)
    }

    /// Sends a request and waits until the kernel has done it or refused.
    pub(crate) fn request(&mut self, kind: u16, flags: u16, body: &Body) -> io::Result<()> {
        self.exchange(kind, NLM_F_ACK | flags, body.bytes(), |_| Ok(()))
    }

    fn exchange(
        &mut self,
        kind: u16,
        flags: u16,
        bytes: Vec<u8>,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let raw = Raw { kind, bytes };
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(raw));
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.fd, &buffer, SendFlags::empty(), &kernel)?;

        let mut buffer = vec![0; BUFFER];
        loop {
            let (received, _) = recv(&self.fd, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..received];
            while !rest.is_empty() {
                let message = NetlinkMessage::<Raw>::deserialize(rest).map_err(io::Error::other)?;
                let length = usize::try_from(message.header.length).map_err(io::Error::other)?;
                let aligned = length.next_multiple_of(usize::from(NLMSG_ALIGNTO));
                rest = rest.get(aligned..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(raw) => each(&raw.bytes)?,
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(()),
                            Some(code) => Err(io::Error::from_raw_os_error(-code.get())),
                        };
                    }
                    NetlinkPayload::Done(done) if done.code == 0 => return Ok(()),
                    NetlinkPayload::Done(done) => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_nobody_knows_go_back_whole() {
        let body = Body {
            fixed: vec![2, 24, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0],
            attributes: vec![(1, vec![10, 0, 0, 0]), (999 | NLA_F_NESTED, vec![1, 2, 3])],
        };
        let bytes = body.bytes();
        assert_eq!(bytes.len(), 12 + 8 + 8);
        assert_eq!(Body::parse(&bytes, 12).unwrap(), body);
        assert_eq!(body.attribute(999), Some(&[1, 2, 3][..]));
        assert!(Body::parse(&bytes[..8], 12).is_err());
    }

    #[test]
    fn the_kernel_answers() {
        let links = Socket::route()
            .unwrap()
            .dump(libc::RTM_GETLINK, &[0; 16])
            .unwrap();
        let lo = links.iter().find(|link| link.word(4) == 1).unwrap();
        assert_eq!(lo.attribute(libc::IFLA_IFNAME), Some(&b"lo\0"[..]));
        let unknown = Body {
            fixed: vec![0; 16],
            attributes: vec![],
        };
        let refused = Socket::route()
            .unwrap()
            .request(libc::RTM_SETLINK, 0, &unknown);
        assert!(refused.is_err());
    }
}
