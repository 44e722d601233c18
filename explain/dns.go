package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/policy"
)

// Where clusters have their DNS, by which label its pods are known, and its port.
const (
	dnsLabel, dnsPods = "k8s-app", "kube-dns"
	dnsPort           = 53
)

// supposedDNS are the addresses of a DNS pod that is not there to be asked about, of documentation (RFC 5737,
// RFC 3849): no rule means just them.
var supposedDNS = []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")}

// withoutDNS notes that a pod which may reach the other end, or might if it had resolved a name, may not ask for names. If none of its addresses
// is of a family that the cluster's DNS has, nobody knows whom it asks.
func (x *Explainer) withoutDNS(a Answer, p packet) []Note {
	if a.Egress.Verdict != Allowed && !missesName(a.Egress) || len(a.Egress.Policies) == 0 || len(p.subject.Pods) == 0 || p.DstPort == dnsPort {
		return nil
	}
	pod := p.subject.Pods[0]
	servers := x.dnsServers()
	if len(servers) == 0 {
		return x.withoutSupposedDNS(pod, p)
	}
	asked := false
	for _, query := range x.dnsQueries(pod, servers) {
		asked = true
		if query.Dst == p.Dst || x.Judge(query).Egress.Allowed {
			return nil
		}
	}
	if !asked {
		return nil
	}
	return []Note{{"EgressWithoutDNS", fmt.Sprintf(
		"Pod %s may not reach the cluster's DNS (pods k8s-app=kube-dns in namespace kube-system, port 53/UDP), so that it cannot resolve names.", pod.Name)}}
}

// missesName reports whether a rule would have allowed a packet by a domain name.
func missesName(s Side) bool {
	return slices.ContainsFunc(s.NearestMisses, func(m Miss) bool {
		return slices.ContainsFunc(m.Failed, func(f Mismatch) bool { return strings.Contains(f.Path, ".domainNames[") })
	})
}

// dnsServers are the addresses of the pods that serve the cluster's DNS.
func (x *Explainer) dnsServers() (addrs []netip.Addr) {
	for _, pod := range x.cluster.Pods {
		if pod.Namespace == metav1.NamespaceSystem && pod.Labels[dnsLabel] == dnsPods {
			addrs = append(addrs, x.addrs(pod)...)
		}
	}
	return addrs
}

// dnsQueries are the packets by which a pod asks servers, each from the pod's address of the server's family.
func (x *Explainer) dnsQueries(pod *corev1.Pod, servers []netip.Addr) (queries []policy.Packet) {
	from := x.believed(pod)
	for _, server := range servers {
		at := slices.IndexFunc(from, func(addr netip.Addr) bool { return addr.Is4() == server.Is4() })
		if at < 0 {
			continue
		}
		query := policy.Packet{Src: from[at], Dst: server, Protocol: policy.UDP, DstPort: dnsPort, HopLimit: 64}
		// The port of the pod may be another than that of its Service.
		for _, declared := range declaredPorts(x.holders[server][0]) {
			if declared.Protocol == policy.UDP && (declared.Name == "dns" || declared.Number == dnsPort) {
				query.DstPort = declared.Number
			}
		}
		queries = append(queries, query)
	}
	return queries
}

// withoutSupposedDNS is the note where the cluster's DNS is not among its objects, as in files. Judge is asked
// about a pod as it is in most clusters; a pod that has any rule for port 53 may well reach another.
func (x *Explainer) withoutSupposedDNS(pod *corev1.Pod, p packet) []Note {
	query := p
	query.Protocol, query.DstPort, query.Dst = policy.UDP, dnsPort, supposedDNS[0]
	if p.Src.Is6() {
		query.Dst = supposedDNS[1]
	}
	s := x.about(p.Src)
	s.Pods = append(slices.Clone(s.Pods), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "supposed-dns", Labels: map[string]string{dnsLabel: dnsPods}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{
			{Name: "dns", ContainerPort: dnsPort, Protocol: corev1.ProtocolUDP}, {Name: "dns-tcp", ContainerPort: dnsPort, Protocol: corev1.ProtocolTCP},
		}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: query.Dst.String()}}},
	})
	if pod.Namespace != metav1.NamespaceSystem {
		system := x.namespaces[metav1.NamespaceSystem]
		if system == nil {
			system = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceSystem, Labels: map[string]string{corev1.LabelMetadataName: metav1.NamespaceSystem}}}
		}
		s.Namespaces = append(slices.Clone(s.Namespaces), system)
	}
	j := policy.Judge(s, query.Packet, x.options).Egress
	if j.Allowed || x.mayAskDNS(j, query) {
		return nil
	}
	if len(j.DeniedBy) > 0 {
		return []Note{{"EgressWithoutDNS", fmt.Sprintf("Pod %s may not reach port 53/UDP of the cluster's DNS, which is denied by %s, so that it cannot resolve names.",
			pod.Name, rulesText([]Rule{x.found(j.DeniedBy[0])}))}}
	}
	return []Note{{"EgressWithoutDNS", fmt.Sprintf("No egress rule of pod %s allows port 53/UDP, so that it cannot resolve names.", pod.Name)}}
}

// mayAskDNS reports whether some egress rule that could have allowed a query has its port, or all ports.
func (x *Explainer) mayAskDNS(j policy.Judgement, query packet) bool {
	return slices.ContainsFunc(x.mightAllow(j, query), func(r rule) bool {
		dns := slices.ContainsFunc(r.ports, func(entry port) bool { return strings.HasPrefix(entry.named, "dns") })
		return r.action == "Accept" && (len(r.ports) == 0 || dns || len(missedPorts(r, query)) == 0)
	})
}
