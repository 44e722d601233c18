package report

import (
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/policy"
)

// ReasonStaged is the reason of the Event on a policy that is staged, or on a Namespace that stages its NetworkPolicies;
// ReasonUnknownEnforcement that of the Warning Event on a Namespace whose annotation says nothing that is known. A policy's
// own is one of its problems.
const (
	ReasonStaged             = "Staged"
	ReasonUnknownEnforcement = "UnknownEnforcement"
)

const (
	stagedMessage = "podfence enforces nothing of it, and tells what it would deny as would-deny (kubectl podfence observe). Other implementations of NetworkPolicy enforce it."
	stagesMessage = "podfence enforces none of its NetworkPolicies, and tells what they would deny as would-deny (kubectl podfence observe). Other implementations of NetworkPolicy enforce them."
)

// Staged says by an Event on each object that it is staged, or stages what is in it. Its methods may be called
// concurrently, and never wait. Every node's agent says the same, so that one of them creates the Event.
type Staged struct {
	events *Events
	log    logr.Logger

	mu   sync.Mutex
	said map[client.ObjectKey]saidStaged
}

// saidStaged is what was said of an object.
type saidStaged struct {
	identity string
	event    *corev1.Event
}

func newStaged(events *Events, log logr.Logger) *Staged {
	return &Staged{events: events, log: log, said: map[client.ObjectKey]saidStaged{}}
}

// Policy notes a NetworkPolicy or a ClusterNetworkPolicy as it is now.
func (s *Staged) Policy(object client.Object) {
	if staged, _ := policy.StagedBy(object.GetAnnotations()); staged {
		s.say(client.ObjectKeyFromObject(object), aboutPolicy(object), corev1.EventTypeNormal, ReasonStaged, stagedMessage)
	} else {
		s.Gone(client.ObjectKeyFromObject(object))
	}
}

// Namespace notes a Namespace as it is now.
func (s *Staged) Namespace(ns *corev1.Namespace) {
	about := corev1.ObjectReference{APIVersion: "v1", Kind: "Namespace", Name: ns.Name, UID: ns.UID, ResourceVersion: ns.ResourceVersion}
	switch staged, wrong := policy.StagedBy(ns.Annotations); {
	case wrong != "":
		s.say(namespaceKey(ns.Name), about, corev1.EventTypeWarning, ReasonUnknownEnforcement, "annotation "+policy.EnforcementAnnotation+": "+wrong)
	case staged:
		s.say(namespaceKey(ns.Name), about, corev1.EventTypeNormal, ReasonStaged, stagesMessage)
	default:
		s.Gone(namespaceKey(ns.Name))
	}
}

// Gone notes that an object is gone, or not staged. What was said of it is taken back if it was not created yet.
func (s *Staged) Gone(key client.ObjectKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(key)
}

// NamespaceGone does the same for a Namespace.
func (s *Staged) NamespaceGone(name string) { s.Gone(namespaceKey(name)) }

// namespaceKey is a Namespace's. No policy has one without a name.
func namespaceKey(name string) client.ObjectKey { return client.ObjectKey{Namespace: name} }

// forget is Gone for who holds mu.
func (s *Staged) forget(key client.ObjectKey) {
	if said, is := s.said[key]; is {
		s.events.Drop(said.event)
		delete(s.said, key)
	}
}

// say says something of an object, if that is news.
func (s *Staged) say(key client.ObjectKey, about corev1.ObjectReference, kind, reason, message string) {
	identity := string(about.UID) + " " + reason + " " + message
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.said[key].identity == identity {
		return
	}
	s.forget(key)
	event := s.events.Warning(about, reason, identity, message)
	event.Type = kind
	if kind == corev1.EventTypeWarning {
		warn(s.log, "A Namespace says of its policies what is not known; they are in force", "namespace", about.Name, "problem", message)
	}
	s.said[key] = saidStaged{identity, event}
	s.events.Create(event)
}
