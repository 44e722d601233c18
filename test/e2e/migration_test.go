//go:build e2e

package e2e

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/cluster"
	"github.com/podfence/podfence/test/document"
)

// What is common to the tests of docs/migrations: a cluster that another program connects or
// fences, the commands of the page one after the other, as they stand there, and pods that send
// all the time what is allowed and what is denied.

var (
	// migration is the page of docs/migrations that is tried.
	migration = flag.String("migration", "", "the page of docs/migrations that is tried, kube-router or flannel, on a cluster without any network plugin; empty: these tests are left out")
	// migrationPublish has what was measured put into the page.
	migrationPublish = flag.Bool("migration-publish", false, "put what was measured into the page, between its marks")
)

// migrationStep is a command of a page: a shell block with a mark before it.
//
//	<!-- step: NAME -->          is run where kubectl is, in the repository's folder
//	<!-- step: NAME, each node --> is run on each node, as root
//	<!-- step: NAME, the node -->  is run on one node, as root
var migrationStep = regexp.MustCompile("(?s)<!-- step: ([a-z-]+)(, each node|, the node)? -->\n+```sh\n(.*?)\n```\n")

// migrationPage is a page of docs/migrations.
type migrationPage struct {
	path     string
	commands map[string]string
	on       map[string]string // "" where kubectl is, "each node" or "the node"
	ran      map[string]bool
}

// readPage reads the page of that name, or skips the test if another is tried.
func readPage(t *testing.T, name string) migrationPage {
	t.Helper()
	if *migration != name {
		t.Skipf("it needs a cluster of its own: make test-migrations MIGRATIONS=%s", name)
	}
	p := migrationPage{path: filepath.Join("../../docs/migrations", name+".md"), commands: map[string]string{}, on: map[string]string{}, ran: map[string]bool{}}
	text, err := os.ReadFile(p.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range migrationStep.FindAllStringSubmatch(string(text), -1) {
		if p.commands[found[1]] != "" {
			t.Fatalf("%s has two steps of the name %s", p.path, found[1])
		}
		p.commands[found[1]], p.on[found[1]] = found[3], strings.TrimPrefix(found[2], ", ")
	}
	if marks := strings.Count(string(text), "<!-- step: "); marks != len(p.commands) {
		t.Fatalf("%s has %d marks of steps, and only %d have commands", p.path, marks, len(p.commands))
	}
	return p
}

// run runs a step's commands as they stand on the page; they find in $NODE the node that they are about, if
// they are about one.
func (p migrationPage) run(t *testing.T, step, node string) {
	t.Helper()
	text := p.commands[step]
	if text == "" {
		t.Fatalf("%s has no step %s", p.path, step)
	}
	p.ran[step] = true
	nodes := []string{node}
	switch p.on[step] {
	case "":
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		cmd := theCluster.BesideKubectl(ctx, "bash", "-euo", "pipefail", "-c", text)
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), "KUBECONFIG="+theCluster.AdminConfig(), "PATH="+theCluster.Bin+":"+os.Getenv("PATH"), "NODE="+node)
		out, err := cmd.CombinedOutput()
		t.Logf("%s:\n%s", step, out)
		if err != nil {
			t.Fatalf("%s, step %s: %v", p.path, step, err)
		}
		return
	case "each node":
		nodes = bothNodes
	}
	for _, on := range nodes {
		t.Logf("%s on %s:\n%s", step, on, run(t, on, "bash", "-euo", "pipefail", "-c", text))
	}
}

// passage is pods and their traffic while a page's steps are done.
type passage struct {
	page         migrationPage
	namespace    string
	began        time.Time
	pods         allPods
	control      *corev1.Pod   // gets what the strangers send, and is closed to nobody
	sink         *corev1.Pod   // gets nothing, as only friends send to it, who may not
	guarded      []*corev1.Pod // the servers and the sink
	talks        []*steady
	last         tally
	lastAt       time.Time
	rows         []string
	stopWatching func()

	mu         sync.Mutex
	leakedLast time.Time // when a denied packet was last seen to arrive
	leaked     int
}

// tally is what has been counted until a moment.
type tally struct{ denied, leaked, requests, connections, slow, errors int }

// interval is how often each stranger sends to each server, and each friend to the sink.
const interval = 10 * time.Millisecond

// startPassage starts servers, friends and strangers on nodes, under deny by default, the friends' talks with the
// servers, and what is denied. enforced says whether somebody enforces policies by now.
func startPassage(t *testing.T, page migrationPage, enforced bool, nodes ...string) *passage {
	t.Helper()
	p := &passage{page: page, began: time.Now(), namespace: newNamespace(t)}
	open := newNamespace(t)
	friendsAndServers(t, p.namespace)
	for _, node := range nodes {
		pods := start(t, newPod(p.namespace, "server-"+node, on(node), labelled("app", "server")),
			newPod(p.namespace, "friend-"+node, on(node), labelled("app", "friend")), newPod(open, "stranger-"+node, on(node)))
		p.pods.servers, p.pods.friends, p.pods.strangers = append(p.pods.servers, pods[0]), append(p.pods.friends, pods[1]), append(p.pods.strangers, pods[2])
	}
	outside := start(t, newPod(open, "control", on(nodes[0])), newPod(open, "sink", on(nodes[len(nodes)-1])))
	p.control, p.sink = outside[0], outside[1]
	p.guarded = append(append([]*corev1.Pod{}, p.pods.servers...), p.sink)
	if enforced {
		p.expectDenied(t, "before anything is done")
	} else {
		p.expectReached(t, "before anything is done", append(p.pods.strangers, p.pods.friends...)...)
	}
	for _, friend := range p.pods.friends {
		for _, server := range p.pods.servers {
			p.talks = append(p.talks, keepTalking(t, friend, podIPs(server)[0]))
		}
		sendTo(t, friend, interval, addressesOf(p.sink))
	}
	for _, stranger := range p.pods.strangers {
		sendTo(t, stranger, interval, addressesOf(append([]*corev1.Pod{p.control}, p.pods.servers...)...))
	}
	p.watchLeaks(t)
	p.last, p.lastAt = p.count(t), time.Now()
	time.Sleep(5 * time.Second) // a stretch of before, as a measure
	p.row(t, "before")
	return p
}

// expectDenied expects that friends reach servers, and strangers don't, by TCP alone, as the servers' counts are of
// UDP. Whether those who are denied are answered, as kube-router does, is all the same.
func (p *passage) expectDenied(t *testing.T, when string) {
	t.Helper()
	p.expectReached(t, when, p.pods.friends...)
	check.Eventually(t, time.Minute, "strangers not to reach servers: "+when, func() error {
		for _, w := range p.waysOf(t, p.pods.strangers...) {
			if w.opens() == nil {
				return fmt.Errorf("%s reaches %s %s", w.name, w.network, w.address)
			}
		}
		return nil
	})
}

// expectReached expects that pods reach all servers by TCP.
func (p *passage) expectReached(t *testing.T, when string, from ...*corev1.Pod) {
	t.Helper()
	expectWays(t, "servers to be reached: "+when, p.waysOf(t, from...), nil)
}

func (p *passage) waysOf(t *testing.T, from ...*corev1.Pod) (all []way) {
	t.Helper()
	for _, pod := range from {
		for _, server := range p.pods.servers {
			all = append(all, ways(pod.Name, netnsOf(t, pod), podIPs(server), 8080, 0)...)
		}
	}
	return all
}

func addressesOf(pods ...*corev1.Pod) (all []netip.Addr) {
	for _, pod := range pods {
		for _, ip := range pod.Status.PodIPs {
			all = append(all, netip.MustParseAddr(ip.IP))
		}
	}
	return all
}

// watchLeaks takes down when denied packets arrive, twenty times a second.
func (p *passage) watchLeaks(t *testing.T) {
	t.Helper()
	var processes []string
	for _, pod := range p.guarded {
		process, err := cluster.PodProcess(string(pod.UID))
		if err != nil {
			t.Fatal(err)
		}
		processes = append(processes, process)
	}
	count := func() (n int) {
		for _, process := range processes {
			counts, err := counters(process)
			if err != nil {
				t.Errorf("the counters of a guarded pod: %v", err)
				return 0
			}
			for _, name := range []string{"UdpInDatagrams", "UdpNoPorts", "UdpInErrors"} {
				n += counts[name]
			}
		}
		return n
	}
	base := count()
	stop, done := make(chan struct{}), make(chan struct{})
	p.stopWatching = sync.OnceFunc(func() { close(stop); <-done })
	go func() {
		defer close(done)
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case now := <-tick.C:
				if n := count() - base; n != p.leakedNow() {
					p.mu.Lock()
					p.leaked, p.leakedLast = n, now
					p.mu.Unlock()
				}
			}
		}
	}()
	t.Cleanup(p.stopWatching)
}

// end ends the talks and the count of what is denied, before pods go.
func (p *passage) end() {
	p.stopWatching()
	for _, talk := range p.talks {
		talk.end()
	}
}

func (p *passage) leakedNow() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leaked
}

// count is what has been counted until now.
func (p *passage) count(t *testing.T) (all tally) {
	t.Helper()
	time.Sleep(100 * time.Millisecond) // what has arrived has been seen
	all.denied, all.leaked = received(t, p.control), p.leakedNow()
	for _, talk := range p.talks {
		talk.mu.Lock()
		all.errors += len(talk.errors)
		talk.mu.Unlock()
		all.requests, all.connections, all.slow = all.requests+int(talk.requests.Load()), all.connections+int(talk.connections.Load()), all.slow+int(talk.slow.Load())
	}
	return all
}

// row notes what has been counted since the row before, and returns it.
func (p *passage) row(t *testing.T, what string) tally {
	t.Helper()
	now, took := p.count(t), time.Since(p.lastAt)
	p.lastAt = time.Now()
	d := tally{now.denied - p.last.denied, now.leaked - p.last.leaked, now.requests - p.last.requests,
		now.connections - p.last.connections, now.slow - p.last.slow, now.errors - p.last.errors}
	p.last = now
	p.rows = append(p.rows, fmt.Sprintf("| %s | %.1f s | %d | %d | %d | %d | %d | %d |", what, took.Seconds(), d.denied, d.leaked, d.requests, d.connections, d.slow, d.errors))
	t.Log(p.rows[len(p.rows)-1])
	return d
}

// step runs a step of the page, and notes what came of the traffic meanwhile.
func (p *passage) step(t *testing.T, name string) tally {
	t.Helper()
	return p.stepOn(t, name, "")
}

// stepOn is step for one that is about a node.
func (p *passage) stepOn(t *testing.T, name, node string) tally {
	t.Helper()
	p.page.run(t, name, node)
	return p.row(t, strings.TrimSpace("`"+name+"` "+node))
}

// expectClosed fails the test for what has passed in a row that should not, or was lost.
func (p *passage) expectClosed(t *testing.T, step string, d tally) {
	t.Helper()
	if d.leaked != 0 {
		t.Errorf("%s: %d denied packets have passed", step, d.leaked)
	}
	p.expectKept(t, step, d)
}

// expectKept fails the test for talks that have broken in a row, or were none.
func (p *passage) expectKept(t *testing.T, step string, d tally) {
	t.Helper()
	if d.errors != 0 {
		for _, talk := range p.talks {
			talk.mu.Lock()
			t.Logf("%v", talk.errors)
			talk.mu.Unlock()
		}
		t.Errorf("%s: %d talks have failed", step, d.errors)
	}
	if d.denied < 10 || d.requests < 10 {
		t.Errorf("%s: hardly any traffic: %+v", step, d)
	}
}

// publish puts the rows of passages into the page, if that is asked for, and more behind them. It fails the test if
// a step of the page has not been run.
func publish(t *testing.T, page migrationPage, took time.Duration, more string, rows ...string) {
	t.Helper()
	table := "| step | took | denied packets sent to each server | denied packets that arrived | requests answered on kept connections | new connections | of these with a packet sent twice | failed |\n" +
		"| --- | --- | --- | --- | --- | --- | --- | --- |\n" + strings.Join(rows, "\n") + "\n" + more
	t.Log(table)
	for step := range page.commands {
		if !page.ran[step] {
			t.Errorf("%s: the step %s has not been tried", page.path, step)
		}
	}
	if !*migrationPublish || t.Failed() {
		return
	}
	if err := document.Publish(page.path, "test-migrations", table, took); err != nil {
		t.Fatal(err)
	}
}
