package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/test/agreement"
	"github.com/podfence/podfence/test/apiserver"
	"github.com/podfence/podfence/test/churn"
	"github.com/podfence/podfence/test/lab"
	"github.com/podfence/podfence/test/prebuilt"
	"github.com/podfence/podfence/test/random"
	"github.com/podfence/podfence/test/steady"
)

// revokedMark is the agent's default.
const revokedMark = 1 << 29

// nflogGroup is the agent's default.
const nflogGroup = 28774

// world is what the faults share, one after the other: an API server, with objects
// that change at random and those of steady traffic, and a lab with a node for them.
type world struct {
	server  *apiserver.Server
	cluster *churn.Cluster
	lab     *agreement.Cluster
	// scratch is a node without traffic, for tables to be compared with.
	scratch *lab.Node
	// podfence and plugin are the programs, folder what they are in.
	podfence, plugin, folder string
}

var shared struct {
	sync.Mutex
	*world
	err error
}

// theWorld makes the world when it is first asked for.
func theWorld(t *testing.T) *world {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.world == nil && shared.err == nil {
		shared.world, shared.err = newWorld()
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.world
}

// closeWorld ends it, if anybody has asked for it.
func closeWorld() error {
	shared.Lock()
	defer shared.Unlock()
	if shared.world == nil {
		return nil
	}
	return shared.world.close()
}

func newWorld() (w *world, err error) {
	w = &world{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.folder, err = os.MkdirTemp("", "podfence-chaos-"); err != nil {
		return nil, err
	}
	w.podfence, w.plugin = filepath.Join(w.folder, "podfence"), filepath.Join(w.folder, "podfence-cni")
	var wait sync.WaitGroup
	var errs [3]error
	for i, make := range []func() error{w.build, w.populate, w.furnish} {
		wait.Go(func() { errs[i] = make() })
	}
	wait.Wait()
	return w, errors.Join(errs[:]...)
}

// build builds the programs.
func (w *world) build() error {
	return errors.Join(prebuilt.Podfence(w.podfence), prebuilt.Plugin(w.plugin))
}

// populate starts the API server and writes objects.
func (w *world) populate() (err error) {
	if w.server, err = apiserver.New(); err != nil {
		return err
	}
	if w.cluster, err = churn.NewCluster(context.Background(), w.server.API, rand.New(rand.NewSource(1))); err != nil {
		return err
	}
	w.cluster.KeepNode = true
	if err := w.cluster.Fix(steady.Objects()); err != nil {
		return err
	}
	for range 4 * churn.Pods {
		if err := w.cluster.Change(); err != nil {
			return err
		}
	}
	return nil
}

// furnish makes the lab.
func (w *world) furnish() (err error) {
	if w.lab, err = churn.NewLab(); err != nil {
		return err
	}
	if err := steady.AddPods(w.lab.Node); err != nil {
		return err
	}
	w.scratch, err = w.lab.Lab.AddNode("scratch", netip.MustParseAddr("192.0.2.250"))
	return err
}

func (w *world) close() error {
	var errs []error
	if w.lab != nil {
		errs = append(errs, w.lab.Close())
	}
	if w.server != nil {
		errs = append(errs, w.server.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(w.folder))...)
}

// nft gives commands to nft on the node.
func (w *world) nft(commands string) error { return w.lab.NFT(commands) }

// tableOf is what a node's kernel holds, without counters, owner, and what packets have put
// into sets: a line or a block for each object, in the order of their names.
func (w *world) tableOf(node *lab.Node) (string, error) {
	listing, err := churn.Listing(w.lab, node)
	if err != nil {
		return "", err
	}
	blocks := block.FindAllString(listing, -1)
	slices.Sort(blocks)
	return strings.Join(blocks, ""), nil
}

// block is a set, map or chain in a listing.
var block = regexp.MustCompile(`(?ms)^\t(set|map|chain) .*?^\t}\n`)

// wanted is what the node's kernel must hold, by the specification: compiled anew
// from the objects, and listed as another node's.
func (w *world) wanted(s policy.Snapshot) (string, error) {
	intent, _ := policy.Compile(s, random.Node)
	conn, err := kernel.Open(kernel.Options{NetNS: w.scratch.NetNS()})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	table := ruleset.Build(intent, ruleset.Options{RevokedMark: revokedMark, LogGroup: nflogGroup, Links: true})
	table.UpdateLinks(w.links(intent))
	if err := conn.Apply(table.Replacement()); err != nil {
		return "", err
	}
	return w.tableOf(w.scratch)
}

// links are the pods', as the lab has made them: each has one of its own.
func (w *world) links(in policy.Intent) (links ruleset.Links) {
	closed := map[string][2]bool{}
	for _, subject := range in.Subjects {
		for _, addr := range subject.IPs {
			host := w.lab.Lab.Owner(addr)
			if host == nil || host.Link == "" {
				continue
			}
			is := closed[host.Link]
			for d := range is {
				is[d] = is[d] || subject.Fenced(policy.Direction(d))
			}
			closed[host.Link] = is
			links.Addrs = append(links.Addrs, ruleset.LinkAddr{Link: host.Link, Addr: addr})
		}
	}
	for link, is := range closed {
		links.All = append(links.All, link)
		for d := range is {
			if is[d] {
				links.Closed[d] = append(links.Closed[d], link)
			}
		}
	}
	return links
}

// differ says where two tables differ first.
func differ(have, want string) error {
	if have == want {
		return nil
	}
	a, b := strings.Split(have, "\n"), strings.Split(want, "\n")
	for i := 0; ; i++ {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			return fmt.Errorf("the table differs from the objects in line %d of %d: it has\n%s\nand should have\n%s", i+1, len(b), excerpt(a, i), excerpt(b, i))
		}
	}
}

func excerpt(lines []string, at int) string {
	return strings.Join(lines[min(at, len(lines)):min(at+5, len(lines))], "\n")
}
