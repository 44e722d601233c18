package controllers

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/controllers/attachments"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/recorder"
)

// TestStaticPodIsConnected: the runtime tells the hash of a static pod's configuration,
// the API server has a mirror with a UID of its own, and what the cache keeps of that is
// enough to know one by the other. So it is whoever connects the pods, and for either UID.
func TestStaticPodIsConnected(t *testing.T) {
	const hash, mirror = "70a2d08f8ad8cd5dfc51ad71fefd1e78", "d59103af-b6f6-4e90-84ba-d91112074703"
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "static-web-node", UID: mirror, Annotations: map[string]string{
			"kubernetes.io/config.hash": hash, corev1.MirrorPodAnnotationKey: hash, "kubernetes.io/config.source": "file",
		}},
		Spec: corev1.PodSpec{NodeName: "node"}, Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	kept, err := newPodSizes().cache(object)
	if err != nil {
		t.Fatal(err)
	}
	for mode, bridge := range map[string]*enforcer.Bridge{
		"bridge":  {MAC: [6]byte{2, 0, 0, 0, 0, 1}, Gateway: func(p netip.Prefix) netip.Addr { return p.Addr().Next() }},
		"chained": nil,
	} {
		t.Run(mode, func(t *testing.T) {
			kernel := &recorder.Kernel{}
			if bridge != nil {
				bridge.Kernel = kernel
			}
			e := enforcer.New(kernel, enforcer.Options{Node: "node", Bridge: bridge})
			a, err := attachments.New(attachments.Options{
				Node: "node", State: t.TempDir(), Bridge: bridge, Enforcer: e, Log: logr.Discard(),
				Report: report.New(report.Options{Node: "node", Log: logr.Discard(), Registry: prometheus.NewRegistry()}),
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- e.Start(ctx) }()
			defer func() { cancel(); <-done }()
			add := func(ctx context.Context, container, uid, ip string) error {
				return a.Handle(ctx, handshake.Request{
					Op: handshake.OpAdd, ContainerID: container, IfName: "eth0", Pod: handshake.Pod{Namespace: "shop", Name: object.Name, UID: uid},
					IPs: []netip.Addr{netip.MustParseAddr(ip)}, MAC: "02:00:00:00:01:02", HostInterface: "pf" + container,
				})
			}
			e.Feed(policy.SetPod(kept.(*cachedPod).seen), policy.Synced())
			for i, uid := range []string{hash, mirror, ""} {
				ip := netip.AddrFrom4([4]byte{10, 244, 1, byte(7 + i)}).String()
				waits, stop := context.WithTimeout(t.Context(), time.Minute)
				err := add(waits, "c"+ip, uid, ip)
				stop()
				if err != nil {
					t.Errorf("told UID %q: %v", uid, err)
				}
				if !kernel.Holds(ip + " : accept") {
					t.Errorf("told UID %q: %s is not in the table", uid, ip)
				}
			}
			waits, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer stop()
			if err := add(waits, "other", "0a4e1d22", "10.244.1.99"); err == nil || !strings.Contains(err.Error(), "0a4e1d22") {
				t.Errorf("an earlier static pod of the name: %v", err)
			}
		})
	}
}
