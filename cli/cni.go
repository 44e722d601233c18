package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/pflag"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/cni/install"
	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/cni/plugin"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/ruleset"
)

// network are the flags about connecting pods that change what is enforced.
type network struct{ mode, routing, podCIDRs, sourceCheck string }

func (n *network) flags(f *pflag.FlagSet) {
	f.StringVar(&n.mode, "cni", "none", "what to do for the CNI plugin podfence-cni: bridge (it connects the pods), chained (another plugin does, podfence-cni after it) or none")
	f.StringVar(&n.podCIDRs, "pod-cidrs", "closed", "the Node's spec.podCIDRs: closed (what no pod of this node has of them is dropped) or ignored (another plugin gives addresses out by ranges of its own)")
	f.StringVar(&n.sourceCheck, "source-check", "auto", "whether packets with a pod's source must come from where the route to that pod leads: on, off, or auto (on with --cni bridge, where podfence makes those routes)")
	f.StringVar(&n.routing, "routing", "auto", "with --cni bridge, how packets reach other nodes: host-gw, vxlan, or auto (host-gw to nodes on the same link)")
}

// ignorePodCIDRs reports whether the Node's ranges say nothing of its pods' addresses.
func (n *network) ignorePodCIDRs() (bool, error) {
	ignored, err := either("--pod-cidrs", n.podCIDRs, "closed", "ignored")
	if ignored && n.mode == "bridge" {
		return false, errors.New("--pod-cidrs is ignored: with --cni bridge pods get their addresses from them")
	}
	return ignored, err
}

// options adds what connecting the pods takes to the table's.
func (n *network) options(o *ruleset.Options) error {
	switch n.sourceCheck {
	case "on", "off":
		o.SourceCheck = n.sourceCheck == "on"
	case "auto":
		o.SourceCheck = n.mode == "bridge"
	default:
		return fmt.Errorf("--source-check is %q: it must be auto, on or off", n.sourceCheck)
	}
	switch n.mode {
	case "none", "chained":
		o.Links = true
		return nil
	case "bridge":
	default:
		return fmt.Errorf("--cni is %q: it must be none, bridge or chained", n.mode)
	}
	routing, err := node.ParseMode(n.routing)
	if err != nil {
		return fmt.Errorf("--routing: %w", err)
	}
	o.Guard, o.Bridge, o.Masquerade = true, node.DefaultBridge, true
	if routing != node.HostGW {
		o.TunnelPort = node.DefaultVXLANPort
	}
	return nil
}

// cniFlags are the agent's flags about connecting pods.
type cniFlags struct {
	network
	socket, state string
	leases        string
	places        install.Places
	procSys       string
	peersFirst    string
}

func (c *cniFlags) flags(f *pflag.FlagSet) {
	c.network.flags(f)
	f.StringVar(&c.socket, "cni-socket", handshake.DefaultSocket, "where podfence-cni asks the agent")
	f.StringVar(&c.state, "cni-state", "/run/podfence/attachments", "folder that keeps what podfence-cni has said; it must not outlive a reboot")
	f.StringVar(&c.places.ConfDir, "cni-conf-dir", install.DefaultConfDir, "where the container runtime looks for CNI configurations")
	f.StringVar(&c.places.ConfName, "cni-conf-name", install.ConflistName, "file of podfence's CNI configuration; the runtime takes the first by name, so 00-podfence.conflist comes before most others")
	f.StringVar(&c.places.BinDir, "cni-bin-dir", install.DefaultBinDir, "where the container runtime looks for CNI plugins")
	f.StringVar(&c.leases, "cni-data-dir", plugin.DefaultDataDir, "folder where podfence-cni keeps which addresses are taken")
	f.StringVar(&c.places.Plugin, "cni-plugin", "", "podfence-cni to install; empty: the one beside this program")
	f.StringVar(&c.peersFirst, "peers-first", "prefer", "with --cni bridge or chained, whether a new pod starts only when the API server has its address for other nodes: prefer (it waits for that, 5 s at most), require (its ADD fails until then) or off (other nodes learn it from its status)")
	f.StringVar(&c.procSys, "proc-sys", "/proc/sys", "where sysctls can be written: in a container, a mount of the host's")
}

// maxSocket is how long the path of a unix socket may be (unix(7), sun_path with
// its final NUL).
const maxSocket = 107

// check refuses places that can't be meant, before anything is asked of the kernel.
func (c *cniFlags) check() error {
	switch agent.PeersFirst(c.peersFirst) {
	case agent.PeersOff, agent.PeersPrefer, agent.PeersRequire:
	default:
		return fmt.Errorf("--peers-first is %q: it must be prefer, require or off", c.peersFirst)
	}
	if c.mode == "none" {
		return nil
	}
	for flag, path := range map[string]string{
		"--cni-socket": c.socket, "--cni-state": c.state, "--cni-conf-dir": c.places.ConfDir,
		"--cni-bin-dir": c.places.BinDir, "--cni-data-dir": c.leases, "--proc-sys": c.procSys,
	} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("%s is %q: it must be an absolute path", flag, path)
		}
	}
	if name := c.places.ConfName; name != filepath.Base(name) || strings.HasPrefix(name, ".") || filepath.Ext(name) != ".conflist" {
		return fmt.Errorf("--cni-conf-name is %q: it must be a file's name that ends in .conflist, such as %s", name, install.ConflistName)
	}
	if len(c.socket) > maxSocket {
		return fmt.Errorf("--cni-socket has %d bytes, of at most %d: %q", len(c.socket), maxSocket, c.socket)
	}
	return nil
}

// host turns flags that were checked into what the agent works on.
func (c *cniFlags) host() (*agent.Host, error) {
	h := &agent.Host{ProcSys: c.procSys, Connect: agent.Connect(c.mode), Socket: c.socket, State: c.state, Leases: c.leases, Places: c.places}
	if h.Connect == agent.ConnectBridge {
		mode, err := node.ParseMode(c.routing)
		if err != nil {
			return nil, fmt.Errorf("--routing: %w", err)
		}
		h.Routing = mode
	}
	return h, nil
}

// checks look for what on the node leads pods' traffic past the rules.
func (c *cniFlags) checks() map[report.Condition]func() error {
	checks := map[report.Condition]func() error{report.IPVSProxy: ipvsProxy}
	switch c.mode {
	case "bridge":
		checks[report.ConflistShadowed] = func() error { return install.Shadowed(c.places.ConfDir, c.places.ConfName) }
	case "chained":
		checks[report.ConflistShadowed] = func() error { return install.Unchained(c.places.ConfDir) }
		checks[report.BridgeNetfilterOff] = func() error { return node.BridgeNetfilter(c.procSys) }
	}
	return checks
}

// ipvsLink is the link that kube-proxy gives the Services' addresses in its IPVS mode
// (defaultDummyDevice in k8s.io/kubernetes/pkg/proxy/ipvs).
const ipvsLink = "kube-ipvs0"

var ipvsService = regexp.MustCompile(`(?m)^(TCP|UDP|SCTP|FWM) `)

// ipvsProxy fails if kube-proxy balances by IPVS here. The Services' addresses are the
// node's own then, and what pods send to them is redirected in the hook input, after
// podfence's chain, and leaves by the hook output: no forward hook sees it go to the pod
// behind the Service, so that pod's ingress policies would not be asked.
func ipvsProxy() error {
	links, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("look for %s: %w", ipvsLink, err)
	}
	found := ""
	for _, link := range links {
		if link.Name == ipvsLink {
			found = "there is a link " + ipvsLink
		}
	}
	// Each service is a line that begins with its protocol (ip_vs_info_seq_show in
	// net/netfilter/ipvs/ip_vs_ctl.c). Without the module there is no such file.
	services, err := os.ReadFile("/proc/thread-self/net/ip_vs")
	if err == nil && ipvsService.Match(services) {
		found = "there are IPVS services"
	}
	if found != "" {
		return fmt.Errorf("kube-proxy, or another proxy of Services, is in IPVS mode (%s): what goes to pods through Services passes no forward hook, so ingress policies do not hold for it; set kube-proxy's mode to nftables or iptables, and reboot the node or run kube-proxy --cleanup on it", found)
	}
	return nil
}
