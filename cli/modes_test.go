package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/test/check"
)

// changing are agents on a node whose --cni changes.
type changing struct {
	*agents
	folder string // conf and bin are in it
}

func newChanging(t *testing.T) *changing {
	t.Helper()
	c := &changing{newAgents(t), t.TempDir()}
	c.ip("link set lo up", "link add eth0 type veth peer name wire", "link set eth0 up", "link set wire up",
		"addr add 192.0.2.1/24 dev eth0", "route add default via 192.0.2.2 dev eth0")
	write(t, c.path("podfence-cni"), "#!/bin/false\n")
	if err := os.Mkdir(c.path("conf"), 0o755); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *changing) path(name string) string { return filepath.Join(c.folder, name) }

// run runs a command in the node's namespace, that of the test's thread.
func (c *changing) run(name string, args ...string) string {
	c.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

func (c *changing) ip(commands ...string) (out string) {
	c.t.Helper()
	for _, command := range commands {
		out = c.run("ip", strings.Fields(command)...)
	}
	return out
}

// agent starts an agent with a --cni.
func (c *changing) agent(mode string) (*exec.Cmd, <-chan string) {
	c.t.Helper()
	return c.start("--cni", mode, "--cni-socket", c.path("agent.sock"), "--cni-state", c.path("state"), "--cni-conf-dir", c.path("conf"),
		"--cni-bin-dir", c.path("bin"), "--cni-data-dir", c.path("leases"), "--cni-plugin", c.path("podfence-cni"))
}

// end stops an agent as kubelet does.
func (c *changing) end(agent *exec.Cmd, lines <-chan string) {
	c.t.Helper()
	_ = agent.Process.Signal(syscall.SIGTERM)
	for range lines {
	}
	if err := agent.Wait(); err != nil {
		c.t.Errorf("the agent ended with %v", err)
	}
}

// eventually waits for what is to happen.
func (c *changing) eventually(what string, is func() bool) {
	c.t.Helper()
	check.Eventually(c.t, time.Minute, what, check.Holds(is))
}

func (c *changing) there(name string) bool {
	_, err := os.Lstat(c.path(name))
	return err == nil
}

// bridge is the pods' bridge, without what the kernel may take a second to say of whether it is up.
func (c *changing) bridge() string {
	c.t.Helper()
	return carrier.ReplaceAllString(c.ip("-o link show podfence0"), "")
}

var carrier = regexp.MustCompile(`<\S*>| state \S+`)

const (
	ownConflist     = "conf/10-podfence.conflist"
	flannelConflist = "conf/10-flannel.conflist"
	chainedConflist = `{"name":"cbr0","cniVersion":"1.0.0","plugins":[{"type":"flannel"},{"type":"podfence","mode":"chained"}]}`
)

// From bridge to chained and to none: pods that the bridge connects keep what they need,
// and are fenced; when the last has gone, so does all that was theirs.
func TestModeIsLeft(t *testing.T) {
	for _, mode := range []string{"chained", "none"} {
		t.Run(mode, func(t *testing.T) {
			c := newChanging(t)
			agent, lines := c.agent("bridge")
			c.await(lines, `"condition": "NetworkFailed", "ready": true`)
			c.eventually("the conflist", func() bool { return c.there(ownConflist) })
			c.ip("link add pf0 type veth peer name pod0", "link set pf0 master podfence0 group 28774", "link set pf0 up")
			c.end(agent, lines)
			guard, links := c.run("nft", "-s", "list", "table", "bridge", "podfence"), c.bridge()
			routes := c.ip("-4 route show proto 112")

			agent, lines = c.agent(mode)
			if line := c.await(lines, `"condition": "ModeChanged"`); !strings.Contains(line, "podfence0") || !strings.Contains(line, "drain") || !strings.Contains(line, "10-podfence.conflist") {
				t.Errorf("it does not say what is left, and what to do: %s", line)
			}
			c.await(lines, "Replaced the table")
			if rules := c.table(); !strings.Contains(rules, "masquerade") || !strings.Contains(rules, "10.244.1.2") {
				t.Errorf("the pods' rules are\n%s", rules)
			}
			if now := c.run("nft", "-s", "list", "table", "bridge", "podfence"); now != guard {
				t.Errorf("the bridge's table was\n%s\nand is\n%s", guard, now)
			}
			if c.bridge() != links || c.ip("-4 route show proto 112") != routes || !c.there(ownConflist) {
				t.Errorf("links, routes or conflist of running pods have changed: %s", c.ip("-4 route show"))
			}
			// With none, somebody has to remove the file; chained does, see below.
			if mode == "chained" {
				write(t, c.path(flannelConflist), chainedConflist)
			} else if err := os.Remove(c.path(ownConflist)); err != nil {
				t.Fatal(err)
			}

			c.ip("link del pf0")
			c.await(lines, errLeft.Error())
			for range lines {
			}
			if agent.Wait() == nil {
				t.Error("the agent did not end to start anew")
			}
			if c.there(ownConflist) != (mode == "chained") {
				t.Error("the conflist went before the pods: new ones could have got their addresses")
			}
			agent, lines = c.agent(mode)
			c.await(lines, "Replaced the table")
			c.eventually("the bridge to go", func() bool { return exec.Command("ip", "link", "show", "podfence0").Run() != nil })
			c.eventually("podfence's conflist to go", func() bool { return !c.there(ownConflist) })
			if left := c.ip("-4 route show proto 112") + c.ip("-6 route show proto 112"); left != "" {
				t.Errorf("there are left\n%s", left)
			}
			if rules := c.table(); strings.Contains(rules, "masquerade") {
				t.Errorf("without pods of the bridge the rules are\n%s", rules)
			}
			c.end(agent, lines)
		})
	}
}

// From chained and none to bridge: another configuration that comes first is named, and so
// are pods that the other plugin has connected.
func TestModeIsEntered(t *testing.T) {
	c := newChanging(t)
	write(t, c.path(flannelConflist), `{"name":"cbr0","cniVersion":"1.0.0","plugins":[{"type":"flannel"}]}`)
	agent, lines := c.agent("none")
	c.await(lines, `"condition": "NotStarted", "ready": true`)
	c.end(agent, lines)

	c.ip("link add veth1 type veth peer name pod1", "link set veth1 up", "route add 10.244.1.2/32 dev veth1")
	agent, lines = c.agent("bridge")
	if line := c.await(lines, "ConflistShadowed"); !strings.Contains(line, c.path(flannelConflist)) {
		t.Errorf("it does not name the file: %s", line)
	}
	if line := c.await(lines, "ModeChanged"); !strings.Contains(line, "10.244.1.2") || !strings.Contains(line, "veth1") {
		t.Errorf("it does not name the pod's address and link: %s", line)
	}
	if err := os.Remove(c.path(flannelConflist)); err != nil {
		t.Fatal(err)
	}
	c.ip("link del veth1")
	c.await(lines, `"ready": true`)
	c.eventually("the conflist", func() bool { return c.there(ownConflist) })
	c.end(agent, lines)
}

// Chained, the configuration that the runtime takes must call podfence.
func TestModeChainedNamesWhoDoesNotCall(t *testing.T) {
	c := newChanging(t)
	write(t, c.path(flannelConflist), strings.Replace(chainedConflist, `,{"type":"podfence","mode":"chained"}`, "", 1))
	agent, lines := c.agent("chained")
	if line := c.await(lines, "ConflistShadowed"); !strings.Contains(line, c.path(flannelConflist)) {
		t.Errorf("it does not name the file: %s", line)
	}
	write(t, c.path(flannelConflist), chainedConflist)
	c.await(lines, `"condition": "ConflistShadowed", "ready": true`)
	c.end(agent, lines)
}

// With none nobody answers the plugin: a configuration that calls it keeps pods from
// starting, and is named.
func TestModeNoneNamesWhoCalls(t *testing.T) {
	c := newChanging(t)
	write(t, c.path(flannelConflist), chainedConflist)
	agent, lines := c.agent("none")
	if line := c.await(lines, "ModeChanged"); !strings.Contains(line, c.path(flannelConflist)) {
		t.Errorf("it does not name the file: %s", line)
	}
	write(t, c.path(flannelConflist), strings.Replace(chainedConflist, `,{"type":"podfence","mode":"chained"}`, "", 1))
	c.await(lines, `"condition": "ModeChanged", "ready": true`)
	c.end(agent, lines)
}

// TestStartSaysWhatIsNotHeld: each mode of --cni promises as much as those before it, or less,
// and the agent's first line says what it does not.
func TestStartSaysWhatIsNotHeld(t *testing.T) {
	if all := notHeld("bridge", true); len(all) > 0 {
		t.Errorf("--cni bridge: %q", all)
	}
	for _, mode := range []string{"bridge", "chained", "none"} {
		if len(notHeld(mode, false)) != len(notHeld(mode, true))+1 {
			t.Errorf("--cni %s: the check of sources makes no difference", mode)
		}
		o, c := agent.Options{}, cniFlags{network: network{mode: mode}}
		if line := fmt.Sprint(starting(&o, &enforcement{}, &c, true)...); !strings.Contains(line, "hosts outside may send with pods' sources") {
			t.Errorf("--cni %s starts with %s", mode, line)
		}
	}
	if chained, none := len(notHeld("chained", true)), len(notHeld("none", true)); chained == 0 || none <= chained {
		t.Errorf("chained: %d promises not held, none: %d", chained, none)
	}
}
