package connectivity_test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr/funcr"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/cni/plugin"
)

// story is an agent's log.
type story struct {
	mu    sync.Mutex
	lines []string
}

func (s *story) tell(_, line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, line)
}

// repairs are what the agent says that it has made again, one round each.
func (s *story) repairs() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range s.lines {
		if strings.Contains(line, "Somebody else has changed the node's network") {
			all = append(all, regexp.MustCompile(`"changes"="([^"]*)"`).FindStringSubmatch(line)[1])
		}
	}
	return all
}

// TestNetworkComesBack has links, routes, neighbours and rules taken away as a network
// manager does. The pods have each other again without anybody's help, and what the plugin
// made is just what the agent makes again: nothing more than what was taken is missing.
func TestNetworkComesBack(t *testing.T) {
	for _, mode := range []node.Mode{node.HostGW, node.VXLAN} {
		t.Run(mode.String(), func(t *testing.T) {
			c := newCluster(t, settings{nodes: 2, mode: mode, more: denying})
			log := &story{}
			c.stop(0)
			c.options[0].Log = funcr.New(log.tell, funcr.Options{})
			c.start(0)
			hall := append(c.pod("hall", 0, "hall-1", "hall-2"), c.pod("hall", 1, "hall-3")...)
			shop := c.pod("shop", 0, "shop-1")[0]
			whole := func() error {
				for _, to := range hall[1:] {
					if err := c.judge(tcp(hall[0].Host, to.Host, allowedPort, true), udp(to.Host, hall[0].Host, allowedPort, true), tcp(shop.Host, to.Host, deniedPort, false)); err != nil {
						return err
					}
				}
				return nil
			}
			c.eventually("before", whole)
			on := func(command string) {
				t.Helper()
				c.must(c.nodes[0].Do(func() error {
					if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
						return fmt.Errorf("%s: %w: %s", command, err, out)
					}
					return nil
				}))
			}
			port := plugin.LinkName(hall[0].Name, "eth0")
			var four netip.Addr
			for _, ip := range hall[0].IPs {
				if ip.Is4() {
					four = ip
				}
			}
			for damage, want := range map[string]string{
				fmt.Sprintf("ip route del %s dev podfence0", four):                           fmt.Sprintf("add route to %s for pod hall/hall-1", four),
				fmt.Sprintf("ip neigh del %s dev podfence0", four):                           fmt.Sprintf("set neighbour %s for pod hall/hall-1", four),
				fmt.Sprintf("bridge fdb del %s dev %s master static", podMAC(hall[0]), port): fmt.Sprintf("set the pod's MAC behind bridge port %s for pod hall/hall-1", port),
				fmt.Sprintf("bridge link set dev %s learning on", port):                      fmt.Sprintf("set the flags of bridge port %s for pod hall/hall-1", port),
				fmt.Sprintf("ip link set %s nomaster", port):                                 "",
				fmt.Sprintf("ip link set %s down", port):                                     fmt.Sprintf("set up link %s for pod hall/hall-1", port),
				"ip link set podfence0 down; ip link set podfence0 up":                       "",
				"ip link del podfence0":                                                      "",
				"ip route flush proto 112; ip -6 route flush proto 112":                      "",
				"ip addr flush dev podfence0; ip neigh flush dev podfence0 nud permanent":    "",
			} {
				before := len(log.repairs())
				on(damage)
				c.eventually(damage+": no repair", func() error {
					if len(log.repairs()) == before {
						return fmt.Errorf("the log says nothing of it")
					}
					return nil
				})
				if got := log.repairs()[before:]; want != "" && (len(got) != 1 || got[0] != want) {
					t.Errorf("%s: repaired was %q, not %q", damage, got, want)
				}
				c.eventually(damage, whole)
			}
			if mode == node.VXLAN {
				on("ip link del podfence-vxlan; ip rule flush proto 112 || true")
				c.eventually("the tunnel", whole)
			}
			if err := c.fences[0].Enforcer.Ready(); err != nil {
				t.Error(err)
			}
		})
	}
}
