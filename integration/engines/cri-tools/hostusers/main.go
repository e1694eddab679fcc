// hostusers passes the CRI on to containerd and gives each pod that says nothing of user namespaces one of its own, as the
// kubelet does for `hostUsers: false`. critest's pods mostly say nothing.
//
//	hostusers LISTEN CONTAINERD
//
// Both are paths of Unix sockets.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// As the kubelet hands them out: clear of the host's ids, one block a pod.
	firstID = 655360
	block   = 65536
	blocks  = 1000
	// The kubelet's own bound of a message.
	maxMessage = 16 << 20
)

// raw leaves messages as they are.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

type proxy struct {
	containerd *grpc.ClientConn

	mu   sync.Mutex
	next uint32
	// User namespaces of the pods that got theirs here.
	pods map[string]*runtime.UserNamespace
}

// userNamespace is that of a pod with this configuration, nil where it is the pod's own affair: it says what it wants, or
// shares a namespace of the host's, with which the API server refuses `hostUsers: false`.
func (p *proxy) userNamespace(config *runtime.PodSandboxConfig) *runtime.UserNamespace {
	options := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	host := runtime.NamespaceMode_NODE
	if options.GetUsernsOptions() != nil || options.GetNetwork() == host || options.GetPid() == host || options.GetIpc() == host {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := []*runtime.IDMapping{{HostId: firstID + block*(p.next%blocks), Length: block}}
	p.next++
	return &runtime.UserNamespace{Mode: runtime.NamespaceMode_POD, Uids: ids, Gids: ids}
}

func setPod(config *runtime.PodSandboxConfig, users *runtime.UserNamespace) {
	if config.Linux == nil {
		config.Linux = &runtime.LinuxPodSandboxConfig{}
	}
	if config.Linux.SecurityContext == nil {
		config.Linux.SecurityContext = &runtime.LinuxSandboxSecurityContext{}
	}
	if config.Linux.SecurityContext.NamespaceOptions == nil {
		config.Linux.SecurityContext.NamespaceOptions = &runtime.NamespaceOption{}
	}
	config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
}

func setContainer(config *runtime.ContainerConfig, users *runtime.UserNamespace) {
	if config.Linux == nil {
		config.Linux = &runtime.LinuxContainerConfig{}
	}
	if config.Linux.SecurityContext == nil {
		config.Linux.SecurityContext = &runtime.LinuxContainerSecurityContext{}
	}
	if config.Linux.SecurityContext.NamespaceOptions == nil {
		config.Linux.SecurityContext.NamespaceOptions = &runtime.NamespaceOption{}
	}
	config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = users
	for _, mount := range config.Mounts {
		mount.UidMappings, mount.GidMappings = users.Uids, users.Gids
	}
}

// run answers RunPodSandbox.
func (p *proxy) run(request []byte) ([]byte, func([]byte) error, error) {
	var run runtime.RunPodSandboxRequest
	if err := proto.Unmarshal(request, &run); err != nil {
		return nil, nil, err
	}
	users := p.userNamespace(run.Config)
	if users == nil {
		return request, nil, nil
	}
	setPod(run.Config, users)
	changed, err := proto.Marshal(&run)
	return changed, func(answer []byte) error {
		var pod runtime.RunPodSandboxResponse
		if err := proto.Unmarshal(answer, &pod); err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.pods[pod.PodSandboxId] = users
		return nil
	}, err
}

// create answers CreateContainer.
func (p *proxy) create(request []byte) ([]byte, error) {
	var create runtime.CreateContainerRequest
	if err := proto.Unmarshal(request, &create); err != nil {
		return nil, err
	}
	p.mu.Lock()
	users := p.pods[create.PodSandboxId]
	p.mu.Unlock()
	if users == nil || create.Config == nil || create.SandboxConfig == nil {
		return request, nil
	}
	setPod(create.SandboxConfig, users)
	setContainer(create.Config, users)
	return proto.Marshal(&create)
}

// pass serves any method: each has one request, some have many answers.
func (p *proxy) pass(_ any, client grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(client)
	var request []byte
	if err := client.RecvMsg(&request); err != nil {
		return err
	}
	var learn func([]byte) error
	var err error
	switch method {
	case runtime.RuntimeService_RunPodSandbox_FullMethodName:
		request, learn, err = p.run(request)
	case runtime.RuntimeService_CreateContainer_FullMethodName:
		request, err = p.create(request)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(client.Context())
	defer cancel()
	server, err := p.containerd.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return err
	}
	if err := server.SendMsg(&request); err != nil {
		return err
	}
	if err := server.CloseSend(); err != nil {
		return err
	}
	for {
		var answer []byte
		if err := server.RecvMsg(&answer); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if learn != nil {
			if err := learn(answer); err != nil {
				return err
			}
		}
		if err := client.SendMsg(&answer); err != nil {
			return err
		}
	}
}

func serve(listen, containerd string) error {
	conn, err := grpc.NewClient("unix://"+containerd, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return err
	}
	defer conn.Close()
	listener, err := net.Listen("unix", listen)
	if err != nil {
		return err
	}
	p := &proxy{containerd: conn, pods: map[string]*runtime.UserNamespace{}}
	return grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(p.pass), grpc.MaxRecvMsgSize(maxMessage)).Serve(listener)
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: hostusers LISTEN CONTAINERD")
		os.Exit(2)
	}
	if err := serve(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "hostusers:", err)
		os.Exit(1)
	}
}
