package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/cni/install"
	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/cni/plugin"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/ruleset/nft"
)

// exitRefused is the exit code of an uninstall that has changed nothing, because of what
// its user has to do first.
const exitRefused = 2

// refusedError is why an uninstall has changed nothing.
type refusedError struct{ reason string }

func (e *refusedError) Error() string { return "refused, and nothing is changed: " + e.reason }

// uninstaller takes podfence away from a node.
type uninstaller struct {
	confDir, binDir, leases, state, socket string
	revokedMark                            uint32
	// disconnect: pods that podfence connects lose their links.
	disconnect bool
	out        io.Writer
}

func uninstallCommand() *cobra.Command {
	var (
		u    uninstaller
		mark string
		stay bool
	)
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove podfence from this node: what it has put into the kernel and on the disk",
		Long: `Remove podfence from this node: the network configuration, the links of pods
that it connects, its rules, routes and links, its tables, the marks of revoked
flows, leases and attachments, and the plugin. It says what it removes.

Pods that another plugin connects are open then: no policy is enforced on this
node. Pods that podfence connects have no network until they are made anew, so
it asks for --disconnect-pods if there are any. Links go before tables: no pod is
connected without its rules at any moment.

It ends with 0 when nothing of podfence is left, also if nothing was there; with
2 if it refused and has changed nothing: an agent runs on this node, pods are
connected, or another network's configuration calls the plugin; and with 1 if
something could not be removed. What is done by then stays done: mend what it
says, and call it again.

It needs the node's own network namespace and folders; config/uninstall runs it
so in a pod on each node that is labelled for it. Settings in /proc/sys stay.`,
		Example: `  podfence uninstall
  podfence uninstall --disconnect-pods`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			u.out = cmd.OutOrStdout()
			if u.revokedMark, err = markBit(mark); err != nil {
				return err
			}
			if err := u.run(); err != nil || !stay {
				return err
			}
			<-cmd.Context().Done()
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&u.confDir, "cni-conf-dir", install.DefaultConfDir, "as the agent's: where the container runtime looks for CNI configurations")
	f.StringVar(&u.binDir, "cni-bin-dir", install.DefaultBinDir, "as the agent's: where the container runtime looks for CNI plugins")
	f.StringVar(&u.leases, "cni-data-dir", plugin.DefaultDataDir, "as the agent's: folder where podfence-cni keeps which addresses are taken")
	f.StringVar(&u.state, "cni-state", "/run/podfence/attachments", "as the agent's: folder that keeps what podfence-cni has said")
	f.StringVar(&u.socket, "cni-socket", handshake.DefaultSocket, "as the agent's: where podfence-cni asks the agent")
	f.StringVar(&mark, "revoked-mark", "0x20000000", "as the agent's: bit of the conntrack mark that revoked flows have; 0: they have none")
	f.BoolVar(&u.disconnect, "disconnect-pods", false, "delete the links of pods that podfence connects: they have no network until they are made anew")
	f.BoolVar(&stay, "stay", false, "when all is done, stay until told to stop, as a DaemonSet's pod has to")
	return cmd
}

// run takes the steps in an order in which each pod is at any moment either connected and fenced, or
// not connected. After a step that fails it takes no more.
func (u *uninstaller) run() error {
	network, err := node.Open(node.Options{})
	if err != nil {
		return err
	}
	err = u.refuse(network)
	if err == nil {
		for _, step := range []func() error{
			// From here on no more pods get into podfence's network.
			u.removeConfigurations,
			// The pods that are in it lose all of their network, and then their rules.
			func() error { return u.removeNetwork(network) },
			u.removeTables,
			// What the tables kept closed passes by now, so the flows that they marked need no mark.
			u.removeMarks,
			u.removeFiles,
		} {
			if err = step(); err != nil {
				break
			}
		}
	}
	if err = errors.Join(err, network.Close()); err != nil {
		return err
	}
	u.say("nothing of podfence is left on this node")
	return nil
}

func (u *uninstaller) say(format string, args ...any) { fmt.Fprintf(u.out, format+"\n", args...) }

// refuse returns a refusedError if something has to be done before the uninstall.
func (u *uninstaller) refuse(network *node.Network) error {
	running, err := u.agentRuns()
	if err != nil {
		return err
	}
	if running {
		return &refusedError{"an agent runs on this node, and would put back what is removed: stop it first " +
			"(in a cluster, kubectl label node NAME " + uninstallLabel + "=true keeps it off the node)"}
	}
	chained, err := install.OthersCalling(u.confDir)
	if err != nil {
		return err
	}
	if len(chained) > 0 {
		return &refusedError{fmt.Sprintf("%s calls the plugin %q, and no pod starts or ends by it without that: "+
			"take it out of that configuration first, and of what the file is made from", strings.Join(chained, " and "), install.Plugin)}
	}
	pods, err := network.ConnectedPods()
	if err != nil {
		return err
	}
	if len(pods) > 0 && !u.disconnect {
		return &refusedError{fmt.Sprintf("podfence connects %d pods on this node: drain it first, "+
			"or cut them off by --disconnect-pods until they are made anew", len(pods))}
	}
	return nil
}

// uninstallLabel, with the value true, keeps agents off a Node, and brings the pod of
// config/uninstall there.
const uninstallLabel = "podfence.io/uninstall"

// agentRuns also asks the socket, because an agent of an older version does not announce itself.
func (u *uninstaller) agentRuns() (bool, error) {
	if conn, err := net.Dial("unix", u.socket); err == nil {
		return true, conn.Close()
	}
	return agentRuns()
}

func (u *uninstaller) removeConfigurations() error {
	removed, err := install.RemoveConfigurations(u.confDir)
	u.sayRemoved(removed)
	return err
}

func (u *uninstaller) sayRemoved(paths []string) {
	for _, path := range paths {
		u.say("removed %s", path)
	}
}

func (u *uninstaller) removeNetwork(network *node.Network) error {
	pods, err := network.DisconnectPods()
	if pods > 0 {
		u.say("removed the links of %d pods: they have no network until they are made anew", pods)
	}
	if err != nil {
		return err
	}
	things, err := network.Leave()
	if len(things) > 0 {
		u.say("removed %d rules, routes and links: the bridge, and the ways to other nodes", len(things))
	}
	return err
}

func (u *uninstaller) removeTables() error {
	conn, err := kernel.Open(kernel.Options{})
	if errors.Is(err, kernel.ErrUnsupported) {
		return nil // it can have held none
	}
	if err != nil {
		return err
	}
	if err := errors.Join(conn.Uninstall(), conn.Close()); err != nil {
		return err
	}
	u.say("tables inet and bridge %s are gone", nft.TableName)
	return nil
}

// removeMarks takes the marks off the flows that the rules revoked, so that they look to others like
// any flow.
func (u *uninstaller) removeMarks() error {
	if u.revokedMark == 0 {
		return nil
	}
	flows, err := kernel.OpenFlows(kernel.Options{}, u.revokedMark)
	if err != nil {
		return fmt.Errorf("%w (--revoked-mark 0 does without)", err)
	}
	_, unmarked, err := flows.Revoke(func(nft.HookPoint, policy.Packet) bool { return true })
	if unmarked > 0 {
		u.say("took the mark of revoked flows off %d", unmarked)
	}
	return errors.Join(err, flows.Close())
}

// removeFiles removes the plugin last: until then the runtime may call it for a pod that
// ends.
func (u *uninstaller) removeFiles() error {
	for _, files := range []struct {
		dir      string
		patterns []string
	}{
		{filepath.Join(u.leases, install.Network), []string{"*"}},
		{u.leases, nil},
		{u.state, []string{"*.json", "*.json.new"}},
		{filepath.Dir(u.state), []string{filepath.Base(u.state) + ".boot"}},
		// Beside the socket, the plugin sees whether there are rules since this boot.
		{filepath.Dir(u.socket), []string{filepath.Base(u.socket), "committed"}},
	} {
		if err := u.empty(files.dir, files.patterns); err != nil {
			return err
		}
	}
	removed, err := install.RemovePlugins(u.binDir)
	u.sayRemoved(removed)
	return err
}

// empty removes the files of a folder that match, and the folder if it is empty then and
// no mount.
func (u *uninstaller) empty(dir string, patterns []string) error {
	var removed []string
	for _, pattern := range patterns {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, path := range paths {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			removed = append(removed, path)
		}
	}
	if len(removed) < 3 {
		u.sayRemoved(removed)
	} else {
		u.say("removed %d files of %s", len(removed), dir)
	}
	_ = os.Remove(dir) // it has others' files, or is a mount: then it stays
	return nil
}
