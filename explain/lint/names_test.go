package lint_test

import (
	"fmt"
	"testing"
)

// named is a ClusterNetworkPolicy about the shop with names, and some rules before what denies all else.
func named(names, before string) string {
	return cnp("outside", `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: shop}}}, egress: [`+before+`
  {action: Accept, to: [{domainNames: [`+names+`]}]}, {action: Deny, to: [{networks: [0.0.0.0/0, "::/0"]}]}]}`)
}

const (
	asksDNS = `{action: Accept, to: [{pods: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}}], protocols: [{udp: {destinationPort: {number: 53}}}]},`
	noNames = "spec.egress[0].to[0].domainNames[0]: pods that this policy is about cannot ask the cluster's DNS, so that they are told no name's address (shop/%s is one); accept egress to pods with k8s-app=kube-dns of namespace kube-system, port 53 of UDP and TCP, before what denies it [no-dns]"
	by      = "what is sent to a Service has a pod's address when policies are asked; name the pods behind it by their labels instead [service-name]"
	field   = "ClusterNetworkPolicy outside spec.egress[1].to[0].domainNames[0]: "
)

// TestDomainNames: names that mean nobody, or anybody.
func TestDomainNames(t *testing.T) {
	run(t, []lintCase{
		{name: "right", policies: named(`api.example.com, "*.pay.example.com", "*.github.com", postgres.data.svc.cluster.example`, asksDNS)},
		{name: "cannot ask", policies: named(`api.example.com`, ""), want: []string{"Warning ClusterNetworkPolicy outside " + fmt.Sprintf(noNames, "cart")}},
		{name: "its rule for DNS comes too late", policies: cnp("outside", `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: shop}}}, egress: [
  {action: Accept, to: [{domainNames: [a.example.com]}]}, {action: Deny, to: [{networks: [10.0.0.0/8]}]}, `+asksDNS+`]}`), want: []string{"Warning ClusterNetworkPolicy outside " + fmt.Sprintf(noNames, "cart")}},
		{name: "another policy lets them ask", policies: named(`api.example.com`, "") + "\n---\n" + cnp("dns", `{tier: Admin, priority: 0, subject: {namespaces: {}}, egress: [`+asksDNS+`]}`)},
		{name: "isolated", policies: cnp("outside", `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: shop}}}, egress: [{action: Accept, to: [{domainNames: [a.example.com]}]}]}`) + "\n---\n" +
			np("none", `{podSelector: {}, policyTypes: [Egress]}`), want: []string{"Warning ClusterNetworkPolicy outside " + fmt.Sprintf(noNames, "cart")}},
		{name: "nothing closes", policies: cnp("outside", `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: shop}}}, egress: [{action: Accept, to: [{domainNames: [a.example.com]}]}]}`)},
		{name: "about nobody who asks", policies: cnp("outside", `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}, egress: [
  {action: Accept, to: [{domainNames: [a.example.com]}]}, {action: Deny, to: [{networks: [0.0.0.0/0, "::/0"]}]}]}`)},
		{name: "a Service", policies: named(`Postgres.data.svc.cluster.local.`, asksDNS), want: []string{"Warning " + field + "postgres.data.svc.cluster.local is the name of Service data/postgres: " + by}},
		{name: "a headless Service", policies: named(`none.data.svc.cluster.local, none-0.none.data.svc.cluster.local, "*.none.data.svc.cluster.local"`, asksDNS), more: "kind: Service\nmetadata: {namespace: data, name: none}\nspec: {clusterIP: None}"},
		{name: "a Service that is not there", policies: named(`nobody.data.svc.cluster.local`, asksDNS)},
		{name: "Services", policies: named(`"*.data.svc.cluster.local"`, asksDNS), want: []string{"Info " + field + "*.data.svc.cluster.local means only Services that are headless: " + by}},
		{name: "all Services", policies: named(`"*.svc.cluster.local"`, asksDNS), want: []string{"Info " + field + "*.svc.cluster.local means only Services that are headless: " + by}},
		{name: "anybody's", policies: named(`"*.github.io"`, asksDNS), want: []string{"Warning " + field + "anybody can have a name that ends with .github.io, so that the rule means any address that its owner wants; name what is meant, such as *.NAME.github.io [public-suffix]"}},
		{name: "anybody's country", policies: named(`"*.co.uk"`, asksDNS), want: []string{"Warning " + field + "anybody can have a name that ends with .co.uk, so that the rule means any address that its owner wants; name what is meant, such as *.NAME.co.uk [public-suffix]"}},
		{name: "behind what denies all", policies: cnp("outside", `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: shop}}}, egress: [`+asksDNS+` {action: Deny, to: [{networks: [0.0.0.0/0, "::/0"]}]}, {action: Accept, to: [{domainNames: [a.example.com]}]}]}`),
			want: []string{"Warning ClusterNetworkPolicy outside spec.egress[2]: the rule never decides, as spec.egress[1], which comes first, has all its peers and ports; put it before that one, or leave it out [shadowed-rule]"}},
		{name: "behind what denies a family", policies: cnp("outside", `{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {team: shop}}}, egress: [`+asksDNS+` {action: Deny, to: [{networks: ["::/0"]}]}, {action: Accept, to: [{domainNames: [a.example.com]}]}]}`)},
	})
}

// TestNamesWithoutDNSInFiles: where nobody knows who answers names, a policy that closes all but names is found.
func TestNamesWithoutDNSInFiles(t *testing.T) {
	const pods = "kind: Namespace\nmetadata: {name: shop, labels: {team: shop}}\n---\nkind: Pod\nmetadata: {namespace: shop, name: web-1}\nspec: {containers: [{}]}\n"
	check(t, clusterOf(t, false, pods, named(`api.example.com`, "")), []string{"Info ClusterNetworkPolicy outside " + fmt.Sprintf(noNames, "web-1")})
	check(t, clusterOf(t, false, pods, named(`api.example.com`, asksDNS)), nil)
}
