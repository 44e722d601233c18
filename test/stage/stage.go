package stage

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/nft"
	"github.com/podfence/podfence/test/agent"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/lab"
)

// ActorID is who sends and receives.
type ActorID uint8

// The actors. Not every stage has all of them.
const (
	Isolated ActorID = iota
	Neighbour
	TheNode
	Outside
	Remote // the other node, or who is in its place
	Wire   // on a port of a foreign bridge that is no pod's
	Heir   // an isolated pod that has joined later
	Nobody
)

var actorNames = [...]string{"isolated pod", "neighbour", "node", "host outside", "other node", "host on the bridge's wire", "pod that has joined", "nobody"}

func (a ActorID) String() string { return actorNames[a] }

// Actor is a host and the node's side of its link.
type Actor struct {
	Host   *lab.Host
	MAC    net.HardwareAddr
	Addr   map[bool]netip.Addr // by: is IPv6
	Eth0   int
	Device netlink.Link // the bridge, or the node's end of the pair
}

// Stage is a node with its pods and others, connected in one way.
type Stage struct {
	T        *testing.T
	Mode     Mode
	Families Families
	Lab      *lab.Lab
	Node     *lab.Node
	agent    *agent.Agent
	dir      string
	pods     map[ActorID]policy.Key
	Actors   [Nobody]*Actor
}

// soon is how long anything may take that is to happen at once.
const soon = time.Minute

// Options are a stage's settings.
type Options struct {
	Mode     Mode
	Families Families
	// Outside are the addresses of a host on a link of the node's, Remote those of another
	// on a link of its own; empty: there is none.
	Outside, Remote []string
}

// OtherNode are the InternalIPs of the other Node of the API.
var OtherNode = []string{"192.0.2.2", "2001:db8:0:1::2"}

// New makes a stage, which goes when the test ends. It skips the test, and says why, where
// the machine has not what it takes.
func New(t *testing.T, o Options) *Stage {
	t.Helper()
	m, f := o.Mode, o.Families
	skip(t, m)
	s := &Stage{T: t, Mode: m, Families: f, pods: map[ActorID]policy.Key{
		Isolated: {Namespace: "shop", Name: "closed"}, Neighbour: {Namespace: "hall", Name: "open"},
	}}
	s.Must(build())
	var err error
	s.dir, err = os.MkdirTemp("", "stage-") // a short name, for the socket's sake
	s.Must(err)
	t.Cleanup(func() { os.RemoveAll(s.dir) })
	s.Lab, err = lab.New(lab.Options{Settle: 50 * time.Millisecond})
	s.Must(err)
	t.Cleanup(func() { s.Must(s.Lab.Close()) })
	s.Node, err = s.Lab.AddNode("node-1", f.Some("192.0.2.1", "2001:db8:0:1::1")...)
	s.Must(err)
	s.Must(s.Node.Do(prepareNode))
	for name, value := range m.Sysctls {
		s.Must(s.Node.SetSysctl(name, value))
	}
	s.Actors[TheNode] = &Actor{Host: &s.Node.Host, Addr: byFamily(f.Some("10.244.1.1", "fd00:10:244:1::1"))}
	s.external(Outside, "outside", f.Some(o.Outside...)...)
	if len(o.Remote) > 0 {
		s.external(Remote, "remote", f.Some(o.Remote...)...)
	}
	if m.Beside {
		s.Must(s.Node.Do(s.bridgeBeside))
	}
	s.start()
	s.connect(Isolated)
	s.connect(Neighbour)
	if m.Foreign() {
		s.external(Wire, "wire", f.Some("198.51.100.7", "2001:db8:0:7::7")...)
		s.Must(s.Node.Do(s.bridgeWire))
	}
	s.settle()
	s.quieten()
	return s
}

// skip skips the test where a mode cannot be had.
func skip(t *testing.T, m Mode) {
	t.Helper()
	if err := lab.Check(); err != nil {
		t.Skipf("skipped: %v", err)
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skipf("skipped: the node's receiver is a rule of nft's: %v", err)
	}
	if !m.Own() {
		if err := reference(); err != nil {
			t.Fatalf("building the reference plugins that connect the pods here: %v", err)
		}
	}
	if m.VLAN > 0 {
		if err := filtersVLANs(); err != nil {
			t.Skipf("skipped: no bridge that filters VLANs can be made here, which takes CONFIG_BRIDGE_VLAN_FILTERING: %v", err)
		}
	}
}

// Must ends the test if there is an error.
func (s *Stage) Must(err error) {
	s.T.Helper()
	check.NoError(s.T, err)
}

func (s *Stage) path(name string) string { return filepath.Join(s.dir, name) }

// Present are the actors that there are.
func (s *Stage) Present() (all []ActorID) {
	for id, a := range s.Actors {
		if a != nil {
			all = append(all, ActorID(id))
		}
	}
	return all
}

// start writes what the cluster is, and runs the agent.
func (s *Stage) start() {
	s.T.Helper()
	for _, dir := range []string{"manifests", "net.d", "bin"} {
		s.Must(os.Mkdir(s.path(dir), 0o755))
	}
	s.write("cluster.yaml", s.clusterYAML())
	s.write("pods.yaml", s.podsYAML())
	var err error
	s.agent, err = agent.Start(agent.Options{Binary: program("podfence-agent"), Node: s.Node, Manifests: s.path("manifests"), Args: []string{
		"--cni", s.Mode.CNI, "--cni-socket", s.path("agent.sock"), "--cni-state", s.path("attachments"), "--cni-conf-dir", s.path("net.d"),
		"--cni-bin-dir", s.path("bin"), "--cni-data-dir", s.path("leases"), "--cni-plugin", program("podfence"), "--metrics-address", "0", "--query-address", "0", "--hubble-address", "0",
		"--routing", cmp.Or(s.Mode.Routing, "auto"), "--source-check", cmp.Or(s.Mode.SourceCheck, "auto"),
	}})
	s.Must(err)
	s.T.Cleanup(s.Stop)
	s.Eventually("the agent", func() error {
		if !s.agent.Ready(s.T.Context()) {
			return errors.New(s.agent.Log())
		}
		return nil
	})
}

// Stop ends the agent; the rules stay.
func (s *Stage) Stop() {
	if s.agent != nil {
		s.Must(s.agent.Stop())
		s.agent = nil
	}
}

// Open takes podfence's rules away: what passes then is what the links let.
func (s *Stage) Open() {
	s.T.Helper()
	s.Stop()
	s.Must(s.Node.Do(func() error {
		tables, err := exec.Command("nft", "list", "tables").Output()
		for _, family := range []string{"inet", "bridge"} {
			if strings.Contains(string(tables), fmt.Sprintf("table %s %s\n", family, nft.TableName)) {
				err = errors.Join(err, Run("nft", "delete", "table", family, nft.TableName))
			}
		}
		return err
	}))
}

// Run runs a program, in the calling thread's namespace.
func Run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w\n%s", name, args, err, out)
	}
	return nil
}

// write replaces a manifest whole: the agent reads it at any time.
func (s *Stage) write(name, text string) {
	s.T.Helper()
	s.Must(os.WriteFile(s.path("new"), []byte(text), 0o600))
	s.Must(os.Rename(s.path("new"), filepath.Join(s.path("manifests"), name)))
}

// Eventually waits until something holds, which it is to do at once.
func (s *Stage) Eventually(what string, holds func() error) {
	s.T.Helper()
	check.Eventually(s.T, soon, what, holds)
}

// connect has the plugins connect a pod, and the API show its addresses.
func (s *Stage) connect(id ActorID) {
	s.T.Helper()
	name := s.pods[id].Name
	var list *libcni.NetworkConfigList
	s.Eventually("a CNI configuration", func() (err error) { list, err = s.conflist(); return err })
	h, err := s.Node.AddSandbox("c-" + name)
	s.Must(err)
	cni := libcni.NewCNIConfigWithCacheDir([]string{s.path("bin"), programs}, s.path("cache"), nil)
	var result types.Result
	s.Must(s.Node.Do(func() (err error) {
		result, err = cni.AddNetworkList(s.T.Context(), list, &libcni.RuntimeConf{
			ContainerID: h.Name, NetNS: h.NetNSPath(), IfName: "eth0",
			Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", s.pods[id].Namespace}, {"K8S_POD_NAME", name}, {"K8S_POD_UID", "uid-" + name}},
		})
		return err
	}))
	made, err := current.NewResultFromResult(result)
	s.Must(err)
	var ips []netip.Addr
	for _, ip := range made.IPs {
		addr, _ := netip.AddrFromSlice(ip.Address.IP)
		ips = append(ips, addr.Unmap())
	}
	h.Connected(ips)
	s.Actors[id] = s.newActor(h, s.Mode.Device())
	s.write("pods.yaml", s.podsYAML())
}

// Join has an isolated pod join a stage that is set, as Heir.
func (s *Stage) Join() {
	s.T.Helper()
	s.pods[Heir] = policy.Key{Namespace: "shop", Name: "heir"}
	s.write("pods.yaml", s.podsYAML())
	s.connect(Heir)
	s.deafen(s.Actors[Heir])
}

// settle waits until the policies hold, for all that the API shows.
func (s *Stage) settle() {
	s.T.Helper()
	var probes []lab.Probe
	for _, from := range []ActorID{Isolated, Neighbour} {
		for _, dst := range s.Actors[Outside].Host.IPs {
			probes = append(probes, lab.Probe{
				From: s.Actors[from].Host, To: s.Actors[Outside].Host, Expect: from == Neighbour,
				Packet: policy.Packet{Dst: dst, Protocol: policy.UDP, DstPort: 1000},
			})
		}
	}
	s.Eventually("policy", func() error {
		results, err := s.Lab.Probe(s.T.Context(), probes)
		for _, r := range results {
			if !r.AsExpected() {
				err = errors.Join(err, errors.New(r.String()))
			}
		}
		return err
	})
	// The agent judges flows once more half a second after a commit. It would cut some of
	// those that frames begin that must begin none.
	time.Sleep(time.Second)
	s.Must(s.Node.FlushConntrack())
}

// NFT gives nft a script, in the calling thread's namespace.
func NFT(text string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}
