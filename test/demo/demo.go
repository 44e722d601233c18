// Package demo shows podfence at work on one machine: a small shop in network
// namespaces, fenced by the agent, with real traffic between all its parts.
package demo

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/podfence/podfence/controllers"
	"github.com/podfence/podfence/controllers/manifests"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/ruleset"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/test/lab"
)

//go:embed shop/*.yaml
var shop embed.FS

// prefix begins the names of the demo's network namespaces.
const prefix = "podfence-demo-"

// stage is one state of the shop.
type stage struct {
	title string
	// add is a file of shop/ to enforce from now on.
	add string
	// replace changes the text of a file that is there: from, to.
	file, from, to string
}

var stages = []stage{
	{title: "1. Before any policy: everyone reaches everyone", add: "cluster.yaml"},
	{title: "2. After default deny in shop and data: pods send and receive nothing", add: "default-deny.yaml"},
	{title: "3. After the allows: the shop works, and nothing else does", add: "allows.yaml"},
	{title: "4. After the frontend's label changes to app=retired: it is cut off", file: "cluster.yaml", from: "labels: {app: frontend}", to: "labels: {app: retired}"},
}

// Run runs the demo and writes what it finds. It fails if any packet got
// another verdict than policy.Judge gives. It removes all that it makes, and
// what an earlier demo has left, unless told to keep it.
func Run(ctx context.Context, out io.Writer, keep bool) (err error) {
	if err := removeLeftovers(); err != nil {
		return fmt.Errorf("removing an earlier demo: %w", err)
	}
	defer func() {
		if ctx.Err() != nil {
			err = errors.New("interrupted; all that the demo made is removed")
		}
	}()
	l, err := lab.New(lab.Options{Prefix: prefix})
	if err != nil {
		return err
	}
	defer func() {
		if !keep || err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	town, err := build(l)
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", prefix)
	if err != nil {
		return err
	}
	defer func() {
		if !keep || err != nil {
			err = errors.Join(err, os.RemoveAll(folder))
		}
	}()

	agentContext, cancel := context.WithCancel(ctx)
	defer cancel()
	agent, stopped, err := startAgent(agentContext, town.node, folder)
	if err != nil {
		return err
	}
	defer func() {
		cancel()
		err = errors.Join(err, <-stopped)
	}()

	p := newPrinter(out)
	p.intro()
	wrong := 0
	for _, s := range stages {
		if err := s.apply(folder); err != nil {
			return err
		}
		if err := agent.Manifests.Reload(); err != nil {
			return err
		}
		if err := awaitCommit(ctx, agent); err != nil {
			return err
		}
		snapshot, err := manifests.Load(folder)
		if err != nil {
			return err
		}
		conversations, err := town.talk(ctx, snapshot)
		if err != nil {
			return err
		}
		wrong += p.stage(s.title, conversations)
	}
	if wrong > 0 {
		return fmt.Errorf("%d of the conversations above did not go as the policies say", wrong)
	}
	p.outro(keep, folder)
	return nil
}

// removeLeftovers removes what a demo that was killed, or told to keep it, has
// left.
func removeLeftovers() error {
	_, err := lab.RemoveLeftovers(prefix)
	folders, globErr := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	err = errors.Join(err, globErr)
	for _, folder := range folders {
		err = errors.Join(err, os.RemoveAll(folder))
	}
	return err
}

// awaitCommit waits until the agent has committed what it read.
func awaitCommit(ctx context.Context, agent *controllers.Agent) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return agent.Enforcer.Sync(ctx)
}

// apply brings a folder of manifests to the stage.
func (s stage) apply(folder string) error {
	if s.add != "" {
		text, err := shop.ReadFile("shop/" + s.add)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(folder, s.add), text, 0o644)
	}
	path := filepath.Join(folder, s.file)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !strings.Contains(string(text), s.from) {
		return fmt.Errorf("%s does not have %q", s.file, s.from)
	}
	return os.WriteFile(path, []byte(strings.Replace(string(text), s.from, s.to, 1)), 0o644)
}

// startAgent runs the agent against the node's namespace.
func startAgent(ctx context.Context, node *lab.Node, folder string) (*controllers.Agent, <-chan error, error) {
	const revokedMark = 1 << 29
	namespace := kernel.Options{NetNS: node.NetNS()}
	conn, err := kernel.Open(namespace)
	if err != nil {
		return nil, nil, err
	}
	flows, err := kernel.OpenFlows(namespace, revokedMark)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	stop := func() error { return errors.Join(flows.Close(), conn.Close()) }
	agent, err := controllers.NewAgent(conn, controllers.Options{
		Node: "node", Manifests: folder, MetricsAddress: "0", HealthAddress: "0",
		Flows: flows, Ruleset: ruleset.Options{RevokedMark: revokedMark},
		Registry: prometheus.NewRegistry(), Log: logr.Discard(),
	})
	if err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	stopped := make(chan error, 1)
	go func() { stopped <- errors.Join(agent.Start(ctx), stop()) }()
	return agent, stopped, nil
}

// town is the shop and its surroundings.
type town struct {
	node     *lab.Node
	people   []*lab.Host
	services []service
}

// service is something to talk to.
type service struct {
	host     *lab.Host
	title    string
	protocol policy.Protocol
	port     uint16
}

// build makes the namespaces, and the servers in them.
func build(l *lab.Lab) (*town, error) {
	node, err := l.AddNode("node", addr("192.0.2.1"), addr("2001:db8:0:1::1"))
	if err != nil {
		return nil, err
	}
	t := &town{node: node}
	var failed error
	add := func(name string, pod bool, addrs ...netip.Addr) *lab.Host {
		if failed != nil {
			return nil
		}
		var host *lab.Host
		if pod {
			host, failed = node.AddPod(name, lab.PodOptions{IPs: addrs})
		} else {
			host, failed = node.AddExternal(name, addrs...)
		}
		t.people = append(t.people, host)
		return host
	}
	frontend := add("frontend", true, addr("10.244.1.2"), addr("fd00:10:244:1::2"))
	backend := add("backend", true, addr("10.244.1.3"), addr("fd00:10:244:1::3"))
	db := add("db", true, addr("10.244.1.4"), addr("fd00:10:244:1::4"))
	customer := add("customer", false, addr("203.0.113.10"), addr("2001:db8:113::10"))
	partner := add("partner", false, addr("198.51.100.20"), addr("2001:db8:51::20"))
	other := add("except", false, addr("198.51.100.200"), addr("2001:db8:51:8000::200"))
	t.people = append(t.people, &node.Host)
	t.services = []service{
		{frontend, "frontend http", policy.TCP, 8080},
		{backend, "backend http", policy.TCP, 9090},
		{backend, "backend stats", policy.UDP, 8125},
		{db, "db sql", policy.TCP, 5432},
		{customer, "customer", policy.TCP, 443},
		{partner, "partner", policy.TCP, 443},
		{other, "except", policy.TCP, 443},
		{&node.Host, "node", policy.TCP, 10250},
	}
	if failed != nil {
		return nil, failed
	}
	for _, s := range t.services {
		if _, err := s.host.Serve(s.protocol, s.port); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }
