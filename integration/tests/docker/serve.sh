# A dockerd that makes its TLS certificates, as the entrypoint of docker:dind does: those for clients are in /certs/client.
serve='
cd /certs; mkdir -p client; umask 077
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 1 -subj /CN=ca 2>/dev/null
for who in server client; do
    openssl req -newkey rsa:2048 -nodes -keyout $who.key -out $who.csr -subj /CN=docker 2>/dev/null
    printf "subjectAltName=DNS:docker\nextendedKeyUsage=${who}Auth\n" >ext
    openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out $who.pem -days 1 -extfile ext 2>/dev/null
done
cp ca.pem client/; cp client.pem client/cert.pem; cp client.key client/key.pem
exec dockerd --host unix:///var/run/docker.sock --host tcp://0.0.0.0:2376 --tlsverify --tlscacert ca.pem --tlscert server.pem --tlskey server.key'
