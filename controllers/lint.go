package controllers

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/controllers/report"
	"github.com/podfence/podfence/explain/lint"
	"github.com/podfence/podfence/policy"
)

// lintEvery is how often an agent looks for what policies cannot mean.
const lintEvery = 30 * time.Second

// policyLinter looks, now and then, for selectors, named ports and excepts that mean nobody while somebody
// else is probably meant, and has it reported. It reads the caches and nothing else: neither the model nor
// what feeds it waits for it. It judges no packet.
type policyLinter struct {
	source   *Source
	node     string
	findings *report.Findings
	clock    clock.WithTicker
	log      logr.Logger
}

func newPolicyLinter(s *Source, o Options) *policyLinter {
	return &policyLinter{source: s, node: o.Node, findings: o.Report.Findings, clock: o.Clock, log: o.Log.WithName("lint")}
}

// Start implements manager.Runnable.
func (l *policyLinter) Start(ctx context.Context) error {
	ticker := l.clock.NewTicker(lintEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			if !l.source.enforcer.HasSynced() {
				continue // half a cluster would leave out who is meant
			}
			if err := l.look(ctx); err != nil && ctx.Err() == nil {
				l.log.Error(err, "Cannot look for what policies cannot mean; trying again later")
			}
		}
	}
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: each agent looks at its part of the
// policies.
func (*policyLinter) NeedLeaderElection() bool { return false }

// look looks at those policies that are this agent's to look at.
func (l *policyLinter) look(ctx context.Context) error {
	var (
		nodes      corev1.NodeList
		namespaces corev1.NamespaceList
		policies   networkingv1.NetworkPolicyList
	)
	for _, list := range []client.ObjectList{&nodes, &namespaces, &policies} {
		if err := l.source.cache.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return fmt.Errorf("listing %T: %w", list, err)
		}
	}
	mine := newRing(nodes.Items).isOf(l.node)
	objects := map[policy.Key]client.Object{}
	seen := lint.Seen{Among: func(key policy.Key) bool { return objects[key] != nil }}
	for i := range policies.Items {
		np := &policies.Items[i]
		if seen.Policies = append(seen.Policies, np); mine(np) {
			objects[client.ObjectKeyFromObject(np)] = np
		}
	}
	var err error
	if seen.ClusterPolicies, err = l.source.cluster.among(mine); err != nil {
		return err
	}
	for _, cnp := range seen.ClusterPolicies {
		objects[client.ObjectKeyFromObject(cnp)] = cnp
	}
	if len(objects) == 0 {
		l.findings.Looked(l.clock.Now(), nil)
		return nil
	}
	for i := range namespaces.Items {
		seen.Namespaces = append(seen.Namespaces, policy.NamespaceOf(&namespaces.Items[i]))
	}
	seen.Pods = l.source.pods.allSeen()
	l.findings.Looked(l.clock.Now(), linted(lint.OfSeen(seen), objects))
	return nil
}

// linted are the findings that are nearly certain, by policy. What is only not there yet, nobody needs
// to be told.
func linted(findings []lint.Finding, objects map[policy.Key]client.Object) (all []report.Linted) {
	for _, f := range findings {
		if f.Severity != lint.Warning {
			continue
		}
		object := objects[policy.Key{Namespace: f.Object.Namespace, Name: f.Object.Name}]
		if n := len(all) - 1; n >= 0 && all[n].Object == object {
			all[n].Findings = append(all[n].Findings, f)
			continue
		}
		all = append(all, report.Linted{Object: object, Findings: []lint.Finding{f}})
	}
	return all
}

// lookers is how many agents look at each policy. One would do; the others are there in case that it is
// down, or that its Node has no agent. What they report is one Event.
const lookers = 3

// ring has the Nodes in an order that their names alone decide. The agents that look at a policy are those
// of the Nodes that follow it there. So all agents agree on who looks, without asking each other, and a
// Node that comes or goes changes it for few policies.
type ring []place

type place struct {
	at   uint64
	node string
}

func newRing(nodes []corev1.Node) ring {
	r := make(ring, 0, len(nodes))
	for i := range nodes {
		r = append(r, place{placeOf(nodes[i].Name), nodes[i].Name})
	}
	slices.SortFunc(r, func(a, b place) int {
		if a.at < b.at || a.at == b.at && a.node < b.node {
			return -1
		}
		return 1
	})
	return r
}

// placeOf is where a text is in the ring.
func placeOf(text string) uint64 {
	sum := sha256.Sum256([]byte(text))
	return binary.BigEndian.Uint64(sum[:])
}

// isOf reports which objects a node's agent is to look at.
func (r ring) isOf(node string) func(client.Object) bool {
	return func(object client.Object) bool {
		at := placeOf(string(object.GetUID()))
		first, _ := slices.BinarySearchFunc(r, at, func(p place, at uint64) int {
			if p.at < at {
				return -1
			}
			return 1
		})
		for i := range min(lookers, len(r)) {
			if r[(first+i)%len(r)].node == node {
				return true
			}
		}
		return false
	}
}
