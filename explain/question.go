package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/podfence/podfence/policy"
)

// Question asks what becomes of new connections.
type Question struct {
	From, To Target
	// Port is what is asked about. Its zero value asks which ports are open.
	Port Port
}

func (q Question) String() string {
	text := fmt.Sprintf("%s to %s", q.From, q.To)
	if q.Port == (Port{}) {
		return text
	}
	if q.To.Kind == KindAddress && q.To.Address.Is6() {
		return fmt.Sprintf("%s to [%s]:%s", q.From, q.To.Address, q.Port)
	}
	return text + ":" + q.Port.String()
}

// Kind says what a Target is. Kinds of workloads are as the API names them, such as Deployment.
type Kind string

// The kinds of targets that are no workloads.
const (
	KindPod     Kind = "Pod"
	KindService Kind = "Service"
	KindNode    Kind = "Node"
	KindAddress Kind = "Address"
	// KindNamespace stands for all pods of a Namespace.
	KindNamespace Kind = "Namespace"
)

// Target is where packets come from, or go to.
type Target struct {
	Kind Kind
	// Namespace and Name are the object's; a Node and a Namespace have no Namespace.
	Namespace, Name string
	// Address is that of a KindAddress.
	Address netip.Addr
}

// String is the target as people write it.
func (t Target) String() string {
	switch t.Kind {
	case KindAddress:
		return t.Address.String()
	case KindNode:
		return "node/" + t.Name
	case KindDomain:
		return "domain/" + t.Name
	case KindNamespace:
		return "ns/" + t.Name
	case KindPod:
		return t.Namespace + "/" + t.Name
	}
	return fmt.Sprintf("%s/%s/%s", shortNames[t.Kind], t.Namespace, t.Name)
}

// Port is a destination port: a number or, of a Service or a pod, a name.
type Port struct {
	// Protocol is TCP unless the question says otherwise.
	Protocol policy.Protocol
	Number   uint16
	Name     string
}

// String is the port as people write it; TCP need not be written.
func (p Port) String() string {
	text := cmp.Or(p.Name, strconv.Itoa(int(p.Number)))
	if p.Protocol == policy.TCP {
		return text
	}
	return text + "/" + p.Protocol.String()
}

// kinds are the kinds of targets by what people write, as kubectl does.
var kinds = map[string]Kind{
	"pod": KindPod, "pods": KindPod, "po": KindPod,
	"service": KindService, "services": KindService, "svc": KindService,
	"node": KindNode, "nodes": KindNode, "no": KindNode,
	"domain":    KindDomain,
	"namespace": KindNamespace, "namespaces": KindNamespace, "ns": KindNamespace,
	"deployment": "Deployment", "deployments": "Deployment", "deploy": "Deployment",
	"statefulset": "StatefulSet", "statefulsets": "StatefulSet", "sts": "StatefulSet",
	"daemonset": "DaemonSet", "daemonsets": "DaemonSet", "ds": "DaemonSet",
	"replicaset": "ReplicaSet", "replicasets": "ReplicaSet", "rs": "ReplicaSet",
	"replicationcontroller": "ReplicationController", "replicationcontrollers": "ReplicationController", "rc": "ReplicationController",
	"job": "Job", "jobs": "Job",
	"cronjob": "CronJob", "cronjobs": "CronJob", "cj": "CronJob",
}

// shortNames are the shortest names of kinds that are common.
var shortNames = map[Kind]string{
	KindPod: "pod", KindService: "svc", KindNode: "node", "Deployment": "deploy", "StatefulSet": "sts", "DaemonSet": "ds",
	"ReplicaSet": "rs", "ReplicationController": "rc", "Job": "job", "CronJob": "cronjob",
}

// forms is what errors say that a target can be.
const forms = "a target is a pod (NAMESPACE/NAME), a workload (deploy/NAMESPACE/NAME; sts, ds, rs, job, cronjob), a Service (svc/NAMESPACE/NAME), a namespace (ns/NAME), a node (node/NAME), a domain name (domain/NAME) or an address"

// ParseTarget reads a target. A name without a namespace is in the one that is given. The first part of
// two is a kind if there is such a kind, and else a namespace.
func ParseTarget(text, namespace string) (Target, error) {
	if addr, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil && addr.Zone() == "" {
		return Target{Kind: KindAddress, Address: addr.Unmap()}, nil
	}
	parts := strings.Split(text, "/")
	if name := policy.DomainNameOf(parts[len(parts)-1]); kinds[strings.ToLower(parts[0])] == KindDomain && len(parts) == 2 && name.Valid() && !name.Wildcard() {
		return Target{Kind: KindDomain, Name: string(name)}, nil
	}
	for _, part := range parts {
		if len(validation.IsDNS1123Subdomain(strings.ToLower(part))) > 0 {
			return Target{}, fmt.Errorf("%q is no target: %s", text, forms)
		}
	}
	kind, named := kinds[strings.ToLower(parts[0])]
	switch {
	case len(parts) == 1:
		return Target{Kind: KindPod, Namespace: namespace, Name: text}, nil
	case named && (kind == KindNode || kind == KindNamespace) && len(parts) == 2:
		return Target{Kind: kind, Name: parts[1]}, nil
	case named && kind != KindDomain && len(parts) == 2:
		return Target{Kind: kind, Namespace: namespace, Name: parts[1]}, nil
	case named && len(parts) == 3 && kind != KindNode && kind != KindNamespace && kind != KindDomain:
		return Target{Kind: kind, Namespace: parts[1], Name: parts[2]}, nil
	case !named && len(parts) == 2:
		return Target{Kind: KindPod, Namespace: parts[0], Name: parts[1]}, nil
	}
	return Target{}, fmt.Errorf("%q is no target: %s", text, forms)
}

// ParseQuestion reads what people write: FROM, and TO[:PORT[/PROTOCOL]].
func ParseQuestion(from, to, namespace string) (Question, error) {
	source, err := ParseTarget(from, namespace)
	if err != nil {
		return Question{}, err
	}
	if source.Kind == KindService {
		return Question{}, fmt.Errorf("%q: nothing comes from a Service; ask from the pods behind it", from)
	}
	if source.Kind == KindDomain {
		return Question{}, fmt.Errorf("%q: a name does not tell who sends; ask from an address", from)
	}
	name, port, has := cutPort(to)
	q := Question{From: source}
	if q.To, err = ParseTarget(name, namespace); err != nil {
		return Question{}, err
	}
	if has {
		if q.Port, err = ParsePort(port); err != nil {
			return Question{}, fmt.Errorf("%s: %w", to, err)
		}
	}
	return q, nil
}

// cutPort divides a target from its port, if it has one. That of an IPv6 address is behind brackets.
func cutPort(text string) (target, port string, has bool) {
	if _, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return text, "", false
	}
	if at := strings.LastIndex(text, ":"); at >= 0 {
		return text[:at], text[at+1:], true
	}
	return text, "", false
}

// portForms is what errors say that a port can be.
const portForms = "a port is a number from 1 to 65535 or a name such as http, with /UDP or /SCTP behind it if it is not TCP's"

// ParsePort reads PORT[/PROTOCOL], in which PORT is a number or a name.
func ParsePort(text string) (Port, error) {
	name, protocol, has := strings.Cut(text, "/")
	port := Port{Protocol: policy.TCP}
	switch strings.ToUpper(protocol) {
	case "TCP":
	case "UDP":
		port.Protocol = policy.UDP
	case "SCTP":
		port.Protocol = policy.SCTP
	default:
		if has {
			return Port{}, fmt.Errorf("%q is no protocol that policies know: TCP, UDP or SCTP", protocol)
		}
	}
	number, err := strconv.ParseUint(name, 10, 16)
	switch {
	case err == nil && number > 0:
		port.Number = uint16(number)
	case isPortName(name):
		port.Name = name
	case isRange(name):
		return Port{}, fmt.Errorf("%q is no port: one port is asked about at a time, or, without a port, which are open; %s", text, portForms)
	default:
		return Port{}, fmt.Errorf("%q is no port: %s", text, portForms)
	}
	return port, nil
}

// isPortName reports whether a text can be the name of a port: of a container, which has a letter and at most
// 15 characters (IANA_SVC_NAME), or of a Service, which may be longer.
func isPortName(text string) bool {
	return len(validation.IsDNS1123Label(text)) == 0 && strings.ContainsFunc(text, func(r rune) bool { return 'a' <= r && r <= 'z' })
}

// isRange reports whether a text looks like several ports.
func isRange(text string) bool {
	return strings.ContainsAny(text, "-,") && !strings.ContainsFunc(text, func(r rune) bool { return !strings.ContainsRune("0123456789-, ", r) })
}
