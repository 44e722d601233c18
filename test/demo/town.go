package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"

	"github.com/podfence/podfence/manifests"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/fence"
	"github.com/podfence/podfence/test/lab"
)

// town is the shop and its surroundings.
type town struct {
	lab *lab.Lab
	// folder has the manifests, and a folder for each node.
	folder   string
	fences   []*fence.Fence
	people   []*person
	services []service
}

// person is someone who talks.
type person struct {
	*lab.Host
	// where is a pod's node, "outside", or empty for the nodes themselves.
	where string
}

// service is something to talk to.
type service struct {
	host     *person
	what     string
	protocol policy.Protocol
	port     uint16
}

// soon is how long anything may take that is to happen at once.
const soon = 30 * time.Second

// manifests is the folder that all agents enforce.
func (t *town) manifests() string { return filepath.Join(t.folder, "manifests") }

// build makes nodes with agents, pods connected by the plugin, hosts outside,
// and the servers on them. What it has made is there for stop and remove even
// if it fails.
func (t *town) build(ctx context.Context, plugin string) (err error) {
	if t.lab, err = lab.New(lab.Options{Prefix: prefix}); err != nil {
		return err
	}
	if t.folder, err = os.MkdirTemp("", prefix); err != nil {
		return err
	}
	if err := os.Mkdir(t.manifests(), 0o755); err != nil {
		return err
	}
	if err := add(t.manifests(), cluster); err != nil {
		return err
	}
	nodes, err := t.addNodes()
	if err != nil {
		return err
	}
	if err := t.fence(ctx, nodes, plugin); err != nil {
		return err
	}
	if err := t.addPods(ctx); err != nil {
		return err
	}
	if err := t.addOutside(nodes[0]); err != nil {
		return err
	}
	for _, n := range nodes {
		t.people = append(t.people, &person{Host: &n.Host})
	}
	return t.serve()
}

// addNodes makes two nodes on one link.
func (t *town) addNodes() ([]*lab.Node, error) {
	first, err := t.lab.AddNode("node-1", addr("192.0.2.1"), addr("2001:db8:0:1::1"))
	if err != nil {
		return nil, err
	}
	second, err := t.lab.AddNode("node-2", addr("192.0.2.2"), addr("2001:db8:0:1::2"))
	if err != nil {
		return nil, err
	}
	return []*lab.Node{first, second}, t.lab.Connect(first, second)
}

// fence starts an agent on each node, and waits until they let pods be
// connected.
func (t *town) fence(ctx context.Context, nodes []*lab.Node, plugin string) error {
	for _, n := range nodes {
		f, err := fence.Start(n, fence.Options{
			Manifests: t.manifests(), Dir: filepath.Join(t.folder, n.Name), Plugin: plugin, Log: logr.Discard(),
		})
		if err != nil {
			return fmt.Errorf("agent on %s: %w", n.Name, err)
		}
		t.fences = append(t.fences, f)
	}
	ctx, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	for _, f := range t.fences {
		for {
			_, err := f.Conflist()
			if err == nil {
				break
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("the agent on %s does not let pods be connected: %w", f.Node.Name, ctx.Err())
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	return nil
}

// addPods connects the manifests' pods, each on its node.
func (t *town) addPods(ctx context.Context) error {
	snapshot, err := manifests.Load(t.manifests())
	if err != nil {
		return err
	}
	for _, f := range t.fences {
		for _, pod := range slices.Backward(snapshot.Pods) { // shop before data
			if pod.Spec.NodeName != f.Node.Name {
				continue
			}
			if err := t.addPod(ctx, f, pod); err != nil {
				return fmt.Errorf("pod %s/%s on %s: %w", pod.Namespace, pod.Name, f.Node.Name, err)
			}
		}
	}
	return nil
}

// addPod does for a pod what container runtime and kubelet would: a sandbox, the
// plugin's ADD, and the addresses that it gave into the pod's status.
func (t *town) addPod(ctx context.Context, f *fence.Fence, pod *corev1.Pod) error {
	sandbox, err := f.Node.AddSandbox(pod.Name)
	if err != nil {
		return err
	}
	ips, err := f.Add(ctx, sandbox, policy.Key{Namespace: pod.Namespace, Name: pod.Name}, string(pod.UID))
	if err != nil {
		return err
	}
	var podIPs []string
	for _, ip := range ips {
		podIPs = append(podIPs, fmt.Sprintf("{ip: %q}", ip))
	}
	t.people = append(t.people, &person{Host: sandbox, where: f.Node.Name})
	return edit(filepath.Join(t.manifests(), cluster),
		fmt.Sprintf("status: {phase: Pending} # %s\n", pod.Name),
		fmt.Sprintf("status: {phase: Running, podIPs: [%s]} # %s\n", strings.Join(podIPs, ", "), pod.Name))
}

// addOutside attaches the hosts outside the cluster. Their way to the pods of
// the other node leads through this one.
func (t *town) addOutside(n *lab.Node) error {
	for _, outsider := range []struct {
		name   string
		v4, v6 netip.Addr
	}{
		{"customer", addr("203.0.113.10"), addr("2001:db8:113::10")},
		{"partner", addr("198.51.100.20"), addr("2001:db8:51::20")},
		{"except", addr("198.51.100.200"), addr("2001:db8:51:8000::200")},
	} {
		host, err := n.AddExternal(outsider.name, outsider.v4, outsider.v6)
		if err != nil {
			return err
		}
		t.people = append(t.people, &person{Host: host, where: "outside"})
	}
	return nil
}

// serve starts everyone's servers.
func (t *town) serve() error {
	for _, s := range []struct {
		name, what string
		protocol   policy.Protocol
		port       uint16
	}{
		{"frontend", "http", policy.TCP, 8080},
		{"backend", "http", policy.TCP, 9090},
		{"backend", "stats", policy.UDP, 8125},
		{"db", "sql", policy.TCP, 5432},
		{"customer", "https", policy.TCP, 443},
		{"partner", "https", policy.TCP, 443},
		{"except", "https", policy.TCP, 443},
		{"node-1", "kubelet", policy.TCP, 10250},
		{"node-2", "kubelet", policy.TCP, 10250},
	} {
		for _, p := range t.people {
			if p.Name != s.name {
				continue
			}
			if _, err := p.Serve(s.protocol, s.port); err != nil {
				return err
			}
			t.services = append(t.services, service{p, s.what, s.protocol, s.port})
		}
	}
	return nil
}

// enforced waits until the kernel has on all nodes what the manifests say.
func (t *town) enforced(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	for _, f := range t.fences {
		if err := errors.Join(f.Manifests.Reload(), f.Enforcer.Sync(ctx)); err != nil {
			return fmt.Errorf("agent on %s: %w", f.Node.Name, err)
		}
	}
	return nil
}

// stop ends the agents; what they have made stays.
func (t *town) stop() error {
	errs := make([]error, len(t.fences))
	var wait sync.WaitGroup
	for i, f := range t.fences {
		wait.Go(func() { errs[i] = f.Stop() })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// remove removes everything; the agents must have stopped.
func (t *town) remove() (err error) {
	if t.lab != nil {
		err = t.lab.Close()
	}
	if t.folder != "" {
		err = errors.Join(err, os.RemoveAll(t.folder))
	}
	return err
}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }
