package network

import (
	"cmp"
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
)

// NodeNetwork makes a node's routes to the other nodes' pods, and keeps what the CNI plugin
// made for this node's.
type NodeNetwork interface {
	// Reconcile makes them what the nodes and pods need, and returns what it did.
	Reconcile(self node.Node, others []node.Node, pods []node.Pod) (changes []string, err error)
	// Changed has a token when somebody may have changed them.
	Changed() <-chan struct{}
}

// Options are what a Network is told.
type Options struct {
	// Node is the name of this node.
	Node string
	// Routes makes the routes to the other nodes' pods; nil: another plugin does.
	Routes NodeNetwork
	// Connects reports whether the CNI plugin has connected an attachment. Links that another
	// plugin has made are left to that plugin.
	Connects func(policy.Attachment) bool
	// Publish writes the CNI configuration for this node, and installs the plugin, where that has
	// changed.
	Publish func(self node.Node) error
	// HostPorts says what operators should know of hostPort on this node; empty: they
	// are served. It is asked after Publish. Nil: they are another plugin's business.
	HostPorts func() string

	// Fenced waits until the pods of the node are fenced: nothing is connected before.
	Fenced func(context.Context) error
	Report *report.Reporter
	Log    logr.Logger
}

// Network keeps the node's routes, and its side of its pods' links, what the cluster's
// nodes and the node's pods need, and tells the container runtime of the CNI plugin once
// pods can be connected.
type Network struct {
	Options
	// committed is what the enforcer has committed of nodes and pods.
	committed committed

	// last is what the last round was for. published and publishedAt are for which node, and when,
	// Publish last succeeded. Only Start's goroutine uses these and the fields below.
	last        world
	published   node.Node
	publishedAt time.Time
	retries     retries
	repairs     enforcer.Repairs
	repaired    []string // what the last repair has changed
	// unreached is the error about other Nodes as last logged, and hostPortsNote what was logged
	// of hostPorts.
	unreached, hostPortsNote string
}

// New returns a network of which Committed is told.
func New(o Options) *Network {
	return &Network{Options: o, committed: newCommitted()}
}

// Committed takes in what the enforcer has committed: the network is made for exactly that. It
// must be called in the order of commits.
func (n *Network) Committed(c enforcer.Committed) { n.committed.take(c) }

// world is what a round is for.
type world struct {
	self   node.Node
	others []node.Node
	pods   []node.Pod
}

const (
	// networkPeriod is how often the network is looked after without news, because not everything
	// that others change makes news.
	networkPeriod = time.Minute
	// networkRetry is how long to wait after a failure; about one Node, pod or range, longer
	// and longer, up to networkPeriod.
	networkRetry = 2 * time.Second
	// networkSettle is how long to wait after a first change, as others may follow.
	networkSettle = 200 * time.Millisecond
)

// Start looks after the network until ctx is done. When Start ends, the network stays as it is. It
// implements manager.Runnable.
func (n *Network) Start(ctx context.Context) error {
	if n.Fenced(ctx) != nil {
		return nil
	}
	var changed <-chan struct{}
	if n.Routes != nil {
		changed = n.Routes.Changed()
	}
	for {
		next, pause := n.round(time.Now())
		ended := time.Now()
		select {
		case <-ctx.Done():
			return nil
		case <-n.committed.otherNodes():
			continue
		case <-time.After(next):
			continue
		case <-changed:
		case <-n.committed.otherPods():
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.committed.otherNodes():
		case <-time.After(max(networkSettle, pause-time.Since(ended))):
		}
	}
}

// round makes the network what it should be and says what it did. Then it publishes the CNI
// configuration and the plugin, so that pods are connected. It returns after how long to have the
// next round without news, and how long to wait before the next round if something changes.
func (n *Network) round(now time.Time) (next, pause time.Duration) {
	w := n.world()
	began := time.Now()
	changes, repair, err := n.reconcile(w)
	// Where others change things all the time, rounds take a tenth of a processor at most. The
	// time for publishing, which may wait for other programs, does not count: it puts off no repair.
	pause = 9 * time.Since(began)
	if repair {
		n.Report.Metrics.NetworkRepaired(len(changes))
		pause = max(pause, n.fight(changes, now))
		n.Log.Info("Somebody else has changed the node's network; what was missing is there again", "changes", strings.Join(report.Short(changes), "; "))
	}
	here, elsewhere := byNode(err)
	n.Report.Health.Set(report.NetworkFailed, here)
	next = n.nextTry(err, now)
	switch {
	case elsewhere != nil && elsewhere.Error() != n.unreached:
		n.unreached = elsewhere.Error()
		n.Log.Error(elsewhere, "Cannot reach the pods of all other nodes; trying again", "retryAfter", next.String())
	case err == nil && (len(changes) > 0 && !repair || n.unreached != ""):
		n.unreached = ""
		n.Log.Info("The node's network is what the cluster needs", "changes", len(changes))
	}
	if err != nil && partialOnly(err) == nil {
		return next, pause
	}
	if err := n.install(w.self, len(changes) > 0, now); err != nil {
		next = min(next, networkRetry)
	}
	return next, pause
}

// fight returns how long to leave alone what was repaired just now: no time at all, unless somebody
// undoes the same thing over and over. Other things that break meanwhile do not count as a fight.
func (n *Network) fight(changes []string, now time.Time) time.Duration {
	same := slices.ContainsFunc(changes, func(change string) bool { return slices.Contains(n.repaired, change) })
	n.repaired = changes
	if !same {
		n.repairs = enforcer.Repairs{}
	}
	return n.repairs.Next(now)
}

// nextTry says when to try again what has failed.
func (n *Network) nextTry(err error, now time.Time) time.Duration {
	partial := partialOnly(err)
	switch {
	case err == nil:
		return n.retries.next(&node.PartialError{}, now)
	case partial == nil:
		return networkRetry
	}
	return n.retries.next(partial, now)
}

// byNode divides what has failed into what concerns this node, its ranges and its pods, and what
// concerns other Nodes. A Node that cannot be reached makes no other node unhealthy, because all of
// them would be so at once.
func byNode(err error) (here, elsewhere error) {
	partial := partialOnly(err)
	if partial == nil {
		return err, nil
	}
	if len(partial.Pods)+len(partial.Ranges) > 0 {
		here = &node.PartialError{Pods: partial.Pods, Ranges: partial.Ranges}
	}
	if len(partial.Nodes) > 0 {
		elsewhere = &node.PartialError{Nodes: partial.Nodes}
	}
	return here, elsewhere
}

// partialOnly returns the error if nothing is missing but routes or links of some Nodes, pods or
// ranges, so that pods can be connected. Otherwise it returns nil, also for a PartialError that is
// joined with other errors: there is more missing then.
func partialOnly(err error) *node.PartialError {
	partial, _ := err.(*node.PartialError) //nolint:errorlint // joined with others it is not the only one
	return partial
}

// ErrNoRound is why a node is not ready before the first round.
var ErrNoRound = errors.New("the node's links and routes have not been looked after yet")

// errNoPodCIDR says that the node has to wait until the controller manager gives it its range
// (--allocate-node-cidrs).
var errNoPodCIDR = errors.New("this Node has no spec.podCIDRs yet: pods cannot get addresses")

// reconcile makes links and routes. What it changes is a repair if the world is the same as in the
// last round.
func (n *Network) reconcile(w world) (changes []string, repair bool, err error) {
	if n.Routes == nil {
		return nil, false, nil
	}
	if len(w.self.PodCIDRs) == 0 {
		return nil, false, errNoPodCIDR
	}
	changes, err = n.Routes.Reconcile(w.self, w.others, w.pods)
	repair = len(changes) > 0 && reflect.DeepEqual(w, n.last)
	n.last = w
	return changes, repair, err
}

// install publishes what this node's pods are connected by. While nothing has changed that this
// depends on, it does so once a minute only, because others rarely touch the files.
func (n *Network) install(self node.Node, changed bool, now time.Time) error {
	if !changed && now.Sub(n.publishedAt) < networkPeriod && reflect.DeepEqual(self, n.published) {
		return nil
	}
	n.publishedAt = time.Time{}
	err := n.Publish(self)
	n.Report.Health.Set(report.NotInstalled, err)
	n.reportHostPorts()
	if err == nil {
		n.published, n.publishedAt = self, now
	}
	return err
}

// world is this node, the others and this node's pods, in order, as they were committed. Pods that
// another plugin has connected are left out, because their links are that plugin's.
func (n *Network) world() (w world) {
	nodes, attachments := n.committed.get()
	for _, known := range nodes {
		member := node.Node{Name: known.Name, Addrs: known.Addrs, PodCIDRs: known.PodCIDRs}
		if known.Name == n.Node {
			w.self = member
		} else {
			w.others = append(w.others, member)
		}
	}
	for _, a := range attachments {
		if n.Connects(a) {
			w.pods = append(w.pods, node.Pod{Name: a.Pod.String(), Link: a.HostInterface, MAC: a.MAC[:], Addrs: a.IPs})
		}
	}
	slices.SortFunc(w.pods, func(a, b node.Pod) int { return cmp.Compare(a.Link, b.Link) })
	return w
}

// retries say when to try again what has failed for one Node, pod or range. Each has its own times,
// less and less often. One that can never be reached costs one round a minute, which there is
// anyway, and does not put off the others.
type retries map[string]*retry

type retry struct {
	wait.Backoff
	due time.Time
}

// next returns how long to wait from now until the first retry is due, but no longer than until the
// next round that there is anyway. It forgets the retries of what has not failed this time.
func (r *retries) next(partial *node.PartialError, now time.Time) time.Duration {
	pending := retries{}
	first := networkPeriod
	for kind, failed := range map[string]map[string]error{"node ": partial.Nodes, "pod ": partial.Pods, "range ": partial.Ranges} {
		for name := range failed {
			entry := (*r)[kind+name]
			if entry == nil {
				entry = &retry{Backoff: wait.Backoff{Duration: networkRetry, Factor: 2, Steps: 8, Cap: networkPeriod}}
			}
			if !entry.due.After(now) {
				entry.due = now.Add(entry.Step())
			}
			pending[kind+name] = entry
			first = min(first, entry.due.Sub(now))
		}
	}
	*r = pending
	return first
}
