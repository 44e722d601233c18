package lint_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/explain/lint"
)

// world is what all cases have: a shop, its database, what watches it, and the cluster's DNS.
const world = `
kind: Namespace
metadata: {name: shop, labels: {kubernetes.io/metadata.name: shop, team: shop}}
---
kind: Namespace
metadata: {name: data, labels: {kubernetes.io/metadata.name: data, team: storage}}
---
kind: Namespace
metadata: {name: monitoring, labels: {kubernetes.io/metadata.name: monitoring, team: operations}}
---
kind: Namespace
metadata: {name: empty, labels: {kubernetes.io/metadata.name: empty, team: nobody}}
---
kind: Namespace
metadata: {name: kube-system, labels: {kubernetes.io/metadata.name: kube-system}}
---
kind: Node
metadata: {name: node-1, labels: {zone: alpha, kubernetes.io/os: linux}}
spec: {podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
kind: Node
metadata: {name: node-2, labels: {zone: beta, kubernetes.io/os: linux}}
spec: {podCIDRs: [10.244.2.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
---
kind: Pod
metadata: {namespace: shop, name: web-1, labels: {app: web, tier: front}}
spec: {nodeName: node-1, containers: [{ports: [{name: http, containerPort: 8080}, {name: metrics, containerPort: 9090, protocol: UDP}]}]}
status: {phase: Running, podIPs: [{ip: 10.244.1.10}]}
---
kind: Pod
metadata: {namespace: shop, name: web-2, labels: {app: web, tier: front}}
spec: {nodeName: node-2, containers: [{ports: [{name: http, containerPort: 8080}, {name: metrics, containerPort: 9090, protocol: UDP}]}]}
status: {phase: Running, podIPs: [{ip: 10.244.2.10}]}
---
kind: Pod
metadata: {namespace: shop, name: cart, labels: {app: cart, tier: middle}}
spec: {nodeName: node-2, containers: [{ports: [{name: grpc, containerPort: 7000}]}]}
status: {phase: Running, podIPs: [{ip: 10.244.2.11}]}
---
kind: Pod
metadata: {namespace: shop, name: report-1, labels: {app: nightly}}
spec: {nodeName: node-2, containers: [{}]}
status: {phase: Succeeded}
---
kind: Pod
metadata: {namespace: data, name: postgres-0, labels: {app.kubernetes.io/name: postgres}}
spec: {nodeName: node-1, containers: [{ports: [{name: sql, containerPort: 5432}]}]}
status: {phase: Running, podIPs: [{ip: 10.244.1.20}]}
---
kind: Pod
metadata: {namespace: monitoring, name: prometheus-0, labels: {app: prometheus}}
spec: {nodeName: node-1, containers: [{}]}
status: {phase: Running, podIPs: [{ip: 10.244.1.30}]}
---
kind: Pod
metadata: {namespace: monitoring, name: exporter, labels: {app: node-exporter}}
spec: {nodeName: node-1, hostNetwork: true, containers: [{}]}
status: {phase: Running, podIPs: [{ip: 192.0.2.1}]}
---
kind: Pod
metadata: {namespace: kube-system, name: coredns-1, labels: {k8s-app: kube-dns}}
spec: {nodeName: node-2, containers: [{ports: [{name: dns, containerPort: 53, protocol: UDP}, {name: dns-tcp, containerPort: 53}]}]}
status: {phase: Running, podIPs: [{ip: 10.244.2.53}]}
---
kind: Service
metadata: {namespace: default, name: kubernetes}
spec: {clusterIP: 10.96.0.1, ports: [{port: 443, targetPort: 6443}]}
---
kind: EndpointSlice
metadata: {namespace: default, name: kubernetes, labels: {kubernetes.io/service-name: kubernetes}}
endpoints: [{addresses: [192.0.2.1]}]
---
kind: Service
metadata: {namespace: kube-system, name: kube-dns}
spec: {clusterIP: 10.96.0.10, selector: {k8s-app: kube-dns}, ports: [{port: 53, protocol: UDP, targetPort: 53}]}
---
kind: Service
metadata: {namespace: shop, name: web}
spec: {clusterIP: 10.96.7.7, selector: {app: web}, ports: [{port: 80, targetPort: http}, {port: 81, targetPort: 8081}]}
---
kind: Service
metadata: {namespace: data, name: postgres}
spec: {clusterIP: 10.96.7.8, selector: {app.kubernetes.io/name: postgres}, ports: [{port: 5432}]}
`

// clusterOf reads objects, of which NetworkPolicies without a namespace are the shop's.
func clusterOf(t *testing.T, running bool, texts ...string) *explain.Cluster {
	t.Helper()
	c := &explain.Cluster{Running: running}
	for _, text := range texts {
		for _, document := range strings.Split(text, "\n---\n") {
			if document == "" {
				continue
			}
			var kind metav1.TypeMeta
			if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
				t.Fatalf("%v in %s", err, document)
			}
			switch kind.Kind {
			case "Namespace":
				c.Namespaces = append(c.Namespaces, read[corev1.Namespace](t, document))
			case "Node":
				c.Nodes = append(c.Nodes, read[corev1.Node](t, document))
			case "Pod":
				c.Pods = append(c.Pods, read[corev1.Pod](t, document))
			case "Service":
				c.Services = append(c.Services, read[corev1.Service](t, document))
			case "EndpointSlice":
				c.EndpointSlices = append(c.EndpointSlices, read[discoveryv1.EndpointSlice](t, document))
			case "NetworkPolicy":
				np := read[networkingv1.NetworkPolicy](t, document)
				if np.Namespace == "" {
					np.Namespace = "shop"
				}
				c.Policies = append(c.Policies, np)
			case "ClusterNetworkPolicy":
				c.ClusterPolicies = append(c.ClusterPolicies, read[clusterv1beta1.ClusterNetworkPolicy](t, document))
			default:
				t.Fatalf("kind %q in %s", kind.Kind, document)
			}
		}
	}
	return c
}

func read[T any](t *testing.T, document string) *T {
	t.Helper()
	object := new(T)
	if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
		t.Fatalf("%v in %s", err, document)
	}
	return object
}

// np is a NetworkPolicy of the shop, and cnp a ClusterNetworkPolicy.
func np(name, spec string) string {
	return fmt.Sprintf("kind: NetworkPolicy\nmetadata: {name: %s}\nspec: %s", name, spec)
}

func cnp(name, spec string) string {
	return fmt.Sprintf("kind: ClusterNetworkPolicy\nmetadata: {name: %s}\nspec: %s", name, spec)
}

// check compares what is found with lines, each of which begins with its severity.
func check(t *testing.T, c *explain.Cluster, want []string) {
	t.Helper()
	var got []string
	for _, f := range lint.Lint(c) {
		got = append(got, f.String())
	}
	if !slices.Equal(got, want) {
		t.Errorf("found\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

type lintCase struct {
	name     string
	policies string
	// more are other objects of the cluster.
	more string
	want []string
}

func run(t *testing.T, cases []lintCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			texts := []string{world, c.policies}
			if c.more != "" {
				texts = append(texts, c.more)
			}
			check(t, clusterOf(t, true, texts...), c.want)
		})
	}
}

// TestText: a line has the place in a file, if it is known, and the kind of mistake.
func TestText(t *testing.T) {
	findings := lint.Lint(clusterOf(t, true, world, np("web", `{podSelector: {matchLabels: {app: webb}}}`)))
	if len(findings) != 1 {
		t.Fatalf("found %v, want one", findings)
	}
	findings[0].Source = &explain.Source{File: "shop/web.yaml", Line: 7}
	var text bytes.Buffer
	if err := lint.WriteText(&text, findings, explain.Plain); err != nil {
		t.Fatal(err)
	}
	want := "shop/web.yaml:7: Warning shop/web spec.podSelector: the policy selects nothing: there are no pods with app=webb of namespace shop: 2 pods have app=web; did you mean that? [selects-nothing]\n"
	if text.String() != want {
		t.Errorf("text is\n%swant\n%s", &text, want)
	}
}

// TestJSON: what programs read. An empty list is one.
func TestJSON(t *testing.T) {
	findings := lint.Lint(clusterOf(t, true, world, np("web", `{podSelector: {matchLabels: {app: webb}}}`)))
	text, err := json.Marshal(lint.NewList(findings, nil))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"apiVersion":"explain.podfence.io/v1","kind":"FindingList","items":[{"rule":"selects-nothing","severity":"Warning","object":{"kind":"NetworkPolicy","namespace":"shop","name":"web"},"path":"spec.podSelector","message":"the policy selects nothing: there are no pods with app=webb of namespace shop: 2 pods have app=web; did you mean that?"}]}`
	if string(text) != want {
		t.Errorf("JSON is\n%s\nwant\n%s", text, want)
	}
	if text, err = json.Marshal(lint.NewList(nil, nil)); err != nil || !strings.Contains(string(text), `"items":[]`) {
		t.Errorf("no findings are %s, %v", text, err)
	}
}
