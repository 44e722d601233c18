package lint

import (
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/podfence/podfence/policy"
)

// servicesDomain is behind the names of Services, NAME.NAMESPACE.svc.cluster.local, in clusters with the usual domain.
const servicesDomain = ".svc.cluster.local"

// domainNames finds names of Services, and wildcards of names that anybody can have.
func (l *linter) domainNames(w *written, services []*corev1.Service) {
	for _, r := range w.rules {
		for _, p := range r.peers {
			for _, d := range p.domains {
				l.serviceName(w, d, services)
				base, wild := strings.CutPrefix(string(d.DomainName), "*.")
				if suffix, _ := publicsuffix.PublicSuffix(base); wild && suffix == base {
					l.add(w, PublicSuffix, Warning, d.path, "anybody can have a name that ends with .%s, so that the rule means any address that its owner wants; name what is meant, such as *.NAME.%s", base, base)
				}
			}
		}
	}
}

// serviceName finds a name of a Service that has an address of its own: what is sent there has the address of a pod when
// policies are asked. The name of a headless Service has those of its pods.
func (l *linter) serviceName(w *written, d domain, services []*corev1.Service) {
	const instead = "what is sent to a Service has a pod's address when policies are asked; name the pods behind it by their labels instead"
	name, is := strings.CutSuffix(string(d.DomainName), servicesDomain)
	if !is && "*"+servicesDomain != string(d.DomainName) {
		return
	}
	labels := strings.Split(name, ".")
	at := slices.IndexFunc(services, func(s *corev1.Service) bool {
		return len(labels) == 2 && s.Name == labels[0] && s.Namespace == labels[1]
	})
	switch {
	case at >= 0 && services[at].Spec.ClusterIP != corev1.ClusterIPNone:
		l.add(w, ServiceName, Warning, d.path, "%s is the name of Service %s/%s: %s", d.DomainName, labels[1], labels[0], instead)
	case d.Wildcard() && len(labels) < 3: // *.NAME.NAMESPACE means the pods of a StatefulSet
		l.add(w, ServiceName, Info, d.path, "%s means only Services that are headless: %s", d.DomainName, instead)
	}
}

// namesWithoutDNS finds rules with domain names in policies about pods that cannot ask the cluster's DNS for these, so that
// the rules mean nobody but, for names without *, whom the agents know. Where nobody knows which pods answer names, a policy
// that itself closes all else and has no rule for port 53 is found.
func (l *linter) namesWithoutDNS(d *resolvers, objects map[policy.Key]*corev1.Pod, all []*written) {
	const what = "pods that this policy is about cannot ask the cluster's DNS, so that they are told no name's address (%s/%s is one); " +
		"accept egress to pods with k8s-app=kube-dns of namespace kube-system, port 53 of UDP and TCP, before what denies it"
	all = slices.Clone(all)
	isolating := isolatingForEgress(all)
	named := slices.DeleteFunc(all, func(w *written) bool { return firstDomain(w) == "" })
	if len(named) == 0 {
		return
	}
	also := l.clusterPoliciesOf(d.cluster.ClusterPolicies)
	for _, w := range named {
		path, about, judged := firstDomain(w), sets.Set[*class]{}, sets.Set[string]{}
		for of := range l.find(l.seen, &w.subject) {
			about.Insert(of)
		}
		for _, of := range l.seen.classes { // in their order
			pod, by := asksDNS(of, objects), isolating.of(of)
			// All pods that the same policies are about are alike, and so is who answers.
			key := keyOf(by, also[of])
			if !about.Has(of) || pod == nil || judged.Has(key) {
				continue
			}
			judged.Insert(key)
			if len(d.pods) > 0 && !d.asked(pod, by) {
				l.add(w, NoDNS, Warning, path, what, pod.Namespace, pod.Name)
				break
			}
			if len(d.pods) == 0 && deniesRest(w) && !mayReachDNS(w) {
				l.add(w, NoDNS, Info, path, what, pod.Namespace, pod.Name)
				break
			}
		}
	}
}

// firstDomain is the path of the first domain name of a policy; empty: it has none.
func firstDomain(w *written) string {
	for _, r := range w.rules {
		for _, p := range r.peers {
			if len(p.domains) > 0 {
				return p.domains[0].path
			}
		}
	}
	return ""
}

// deniesRest reports whether a rule of a ClusterNetworkPolicy denies or passes wide ranges, of all ports.
func deniesRest(w *written) bool {
	return slices.ContainsFunc(w.rules, func(r rule) bool {
		return r.direction == policy.Egress && !r.accepts && len(r.ports) == 0 && slices.ContainsFunc(r.peers, func(p peer) bool { return slices.ContainsFunc(p.blocks, isWide) })
	})
}
