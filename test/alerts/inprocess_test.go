package alerts_test

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/ruleset/kernel"
	"github.com/podfence/podfence/test/apiserver"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/recorder"
)

// inside is an agent in this process, where the fault needs another kernel than the node's, or a table that
// nobody owns.
type inside struct {
	*testing.T
	agent    *agent.Agent
	registry *prometheus.Registry
	film     film
}

// startInside starts an agent, which ends with the test, and scrapes it once, for so many quiet minutes.
func startInside(t *testing.T, quiet int, k enforcer.Kernel, o agent.Options) *inside {
	t.Helper()
	s := &inside{T: t, registry: prometheus.NewRegistry()}
	o.Node, o.MetricsAddress, o.HealthAddress, o.Registry, o.Log = "node-1", "0", "0", s.registry, logr.Discard()
	var err error
	s.agent, err = agent.New(k, o)
	check.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.agent.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		check.NoError(t, <-ended)
	})
	check.Eventually(t, soon, "the first commit", s.agent.Enforcer.Ready)
	s.shoot()
	s.film.hold(quiet - 1)
	return s
}

// shoot gathers the agent's metrics, for another minute of the film.
func (s *inside) shoot() {
	s.Helper()
	gathered, err := s.registry.Gather()
	check.NoError(s, err)
	families := map[string]*dto.MetricFamily{}
	for _, family := range gathered {
		families[family.GetName()] = family
	}
	s.film = append(s.film, frame("node-1", families))
}

// TestTableFight: another program deletes the table, again and again, on a kernel that lets it.
func TestTableFight(t *testing.T) {
	needsFaults(t)
	l := openLab(t)
	node, err := l.AddNode("node-1", netip.MustParseAddr("192.0.2.1"))
	check.NoError(t, err)
	options := kernel.Options{NetNS: node.NetNS()}
	conn, err := kernel.Open(options)
	check.NoError(t, err)
	watch, err := conn.Watch(options)
	check.NoError(t, err)
	t.Cleanup(func() { check.NoError(t, errors.Join(watch.Close(), conn.Close())) })
	s := startInside(t, 10, conn, agent.Options{Manifests: t.TempDir(), Watch: watch})
	// Repairs come later and later, so that a minute of the film is not less than 5 seconds.
	for i := range 40 {
		// It may not have come back yet.
		_ = node.Do(func() error { return exec.Command("nft", "delete", "table", "inet", "podfence").Run() })
		time.Sleep(500 * time.Millisecond)
		if i%10 == 9 {
			s.shoot()
		}
	}
	if repairs := s.film.of("podfence_repairs_total"); repairs < 4 {
		t.Errorf("there were %v repairs", repairs)
	}
	s.film.expectFiring(t, "PodfenceTableFight", 10)
}

// slowKernel takes long for each transaction, once it is slow.
type slowKernel struct {
	recorder.Kernel
	slow atomic.Bool
}

// TestSlowEnforcement: the kernel takes 8 seconds for a transaction.
func TestSlowEnforcement(t *testing.T) {
	needsFaults(t)
	api, config, _ := apiserver.Start(t)
	ctx := t.Context()
	_, err := api.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}, metav1.CreateOptions{})
	check.NoError(t, err)
	pod, err := api.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "node-1", Containers: []corev1.Container{{Name: "web", Image: "none"}}},
	}, metav1.CreateOptions{})
	check.NoError(t, err)
	pod.Status.PodIPs, pod.Status.PodIP, pod.Status.Phase = []corev1.PodIP{{IP: "10.244.1.7"}}, "10.244.1.7", corev1.PodRunning
	_, err = api.CoreV1().Pods("default").UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	check.NoError(t, err)
	k := &slowKernel{}
	k.Before = func(int) error {
		if k.slow.Load() {
			time.Sleep(8 * time.Second)
		}
		return nil
	}
	s := startInside(t, 1, k, agent.Options{API: config})
	create := func(name string) {
		t.Helper()
		before := s.film.of("podfence_policy_enforcement_seconds_count", `from="watch"`)
		_, err := api.NetworkingV1().NetworkPolicies("default").Create(ctx, &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		check.NoError(t, err)
		check.Eventually(t, soon, "policy "+name+" is enforced", check.Holds(func() bool {
			s.film = s.film[:len(s.film):len(s.film)]
			s.shoot()
			done := s.film.of("podfence_policy_enforcement_seconds_count", `from="watch"`) > before
			if !done {
				s.film = s.film[:len(s.film)-1]
			}
			return done
		}))
	}
	create("fast")
	s.film.hold(20)
	quiet := len(s.film)
	k.slow.Store(true)
	create("slow")
	s.film.hold(5)
	s.film.expectFiring(t, "PodfenceSlowEnforcement", quiet)
}

// TestPodsWaiting: the API server does not show the agent a pod that the CNI plugin is to connect. It takes
// the two minutes that a pod waits.
func TestPodsWaiting(t *testing.T) {
	needsFaults(t)
	folder := t.TempDir()
	socket := filepath.Join(folder, "cni.sock")
	s := startInside(t, 10, &recorder.Kernel{}, agent.Options{
		Manifests: t.TempDir(), CNI: &agent.CNI{Socket: socket, State: filepath.Join(folder, "state")},
	})
	began := time.Now()
	for time.Since(began) < 130*time.Second {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		err := handshake.Call(ctx, socket, handshake.Request{
			Op: handshake.OpAdd, ContainerID: "c", IfName: "eth0", Mode: handshake.ModeChained,
			Pod: handshake.Pod{Namespace: "shop", Name: "web", UID: "uid"}, IPs: []netip.Addr{netip.MustParseAddr("10.244.1.7")},
		})
		cancel()
		if err == nil {
			t.Fatal("nobody knows the pod, and it is connected")
		}
	}
	s.shoot()
	s.film.hold(3)
	s.film.expectFiring(t, "PodfencePodsWaiting", 10)
}
