// Package fence runs podfence's agent on a node of a lab, and connects pods
// there by the CNI plugin, as kubelet and a container runtime would.
package fence

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/cni/install"
	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/test/lab"
)

// revokedMark is the agent's default.
const revokedMark = 1 << 29

// Options are what a node is fenced with.
type Options struct {
	// Manifests is the folder of YAML to enforce; API, if there is one, the API
	// server to watch instead.
	Manifests string
	API       *rest.Config
	// Dir is a folder of the node's own: socket, state, CNI configuration,
	// plugins, leases.
	Dir string
	// Plugin is the built podfence-cni.
	Plugin string
	// Mode is how packets reach other nodes.
	Mode node.Mode
	// AnySource turns the check of sources off.
	AnySource bool
	// Log is the agent's.
	Log logr.Logger
	// Flows is what the agent judges and ends flows by, made of the kernel's. Nil: those.
	Flows func(agent.Flows) agent.Flows
}

// Fence is an agent at work on a node.
type Fence struct {
	*agent.Agent
	Node *lab.Node

	options Options
	socket  string
	places  install.Places
	cancel  context.CancelFunc
	stopped chan error
}

// Start runs an agent on a node. The node's name in the manifests is the lab
// node's. Stop ends it; the rules stay.
func Start(n *lab.Node, o Options) (f *Fence, err error) {
	f = &Fence{Node: n, options: o, socket: filepath.Join(o.Dir, "agent.sock"), stopped: make(chan error, 1)}
	f.places = install.Places{ConfDir: filepath.Join(o.Dir, "net.d"), BinDir: filepath.Join(o.Dir, "bin"), Plugin: o.Plugin}
	rules := ruleset.Options{RevokedMark: revokedMark, Masquerade: true, Guard: true, SourceCheck: !o.AnySource, Bridge: node.DefaultBridge}
	if o.Mode != node.HostGW {
		rules.TunnelPort = node.DefaultVXLANPort
	}
	parts := agent.Options{
		Node: n.Name, API: o.API, Manifests: o.Manifests, MetricsAddress: "0", HealthAddress: "0", Ruleset: rules,
		Registry: prometheus.NewRegistry(), Log: o.Log,
	}
	host := &agent.Host{
		NetNS: n.NetNS(), Connect: agent.ConnectBridge, Routing: o.Mode,
		Socket: f.socket, State: filepath.Join(o.Dir, "attachments"), Leases: filepath.Join(o.Dir, "leases"), Places: f.places,
	}
	opened, err := host.Open(&parts)
	if err != nil {
		return nil, err
	}
	if o.Flows != nil {
		parts.Flows = o.Flows(parts.Flows)
	}
	if f.Agent, err = agent.New(opened.Kernel, parts); err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	go func() { f.stopped <- errors.Join(f.Agent.Start(ctx), opened.Close()) }()
	return f, nil
}

// Stop ends the agent.
func (f *Fence) Stop() error {
	f.cancel()
	return <-f.stopped
}

// Conflist is the CNI configuration that the agent has published; it is there
// once pods can be connected.
func (f *Fence) Conflist() (*libcni.NetworkConfigList, error) {
	data, err := os.ReadFile(filepath.Join(f.places.ConfDir, install.ConflistName))
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromBytes(data)
}

// runtime is what a container runtime says of a sandbox: the container's ID is
// its name.
func (f *Fence) runtime(h *lab.Host, ifName string, pod policy.Key, uid string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: h.Name, NetNS: h.NetNSPath(), IfName: ifName,
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", pod.Namespace}, {"K8S_POD_NAME", pod.Name}, {"K8S_POD_UID", uid}},
	}
}

func (f *Fence) cni() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir([]string{f.places.BinDir}, filepath.Join(f.options.Dir, "cache"), nil)
}

// Add connects a sandbox as a pod, and says so to the lab. It returns what the
// plugin says when it cannot.
func (f *Fence) Add(ctx context.Context, h *lab.Host, pod policy.Key, uid string) ([]netip.Addr, error) {
	ips, err := f.AddInterface(ctx, h, "eth0", pod, uid)
	if err != nil {
		return nil, err
	}
	h.Connected(ips)
	return ips, nil
}

// AddInterface gives a sandbox an interface, as Multus does with further ones by the
// node's own configuration. The lab does not hear of its addresses.
func (f *Fence) AddInterface(ctx context.Context, h *lab.Host, ifName string, pod policy.Key, uid string) ([]netip.Addr, error) {
	conflist, err := f.Conflist()
	if err != nil {
		return nil, fmt.Errorf("no CNI configuration yet: %w", err)
	}
	var result types.Result
	// The plugin runs in the namespace of the thread that starts it.
	err = f.Node.Do(func() (err error) {
		result, err = f.cni().AddNetworkList(ctx, conflist, f.runtime(h, ifName, pod, uid))
		return err
	})
	if err != nil {
		return nil, err
	}
	made, err := current.NewResultFromResult(result)
	if err != nil {
		return nil, err
	}
	var ips []netip.Addr
	for _, ip := range made.IPs {
		addr, _ := netip.AddrFromSlice(ip.Address.IP)
		ips = append(ips, addr.Unmap())
	}
	return ips, nil
}

// Del disconnects a sandbox.
func (f *Fence) Del(ctx context.Context, h *lab.Host, pod policy.Key, uid string) error {
	return f.DelInterface(ctx, h, "eth0", pod, uid)
}

// DelInterface takes an interface of a sandbox away.
func (f *Fence) DelInterface(ctx context.Context, h *lab.Host, ifName string, pod policy.Key, uid string) error {
	conflist, err := f.Conflist()
	if err != nil {
		return err
	}
	return f.Node.Do(func() error { return f.cni().DelNetworkList(ctx, conflist, f.runtime(h, ifName, pod, uid)) })
}
