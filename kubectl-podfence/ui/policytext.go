package ui

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/manifests"
	"github.com/podfence/podfence/policy"
)

// policyText is a policy, and its text once it was asked for.
type policyText struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Staged: it is not in force.
	Staged bool   `json:"staged,omitempty"`
	YAML   string `json:"yaml,omitempty"`

	object runtime.Object
}

// mostTexts is of how many policies a list has the text.
const mostTexts = 200

// policiesOf are a cluster's policies, in order.
func policiesOf(c *explain.Cluster) (all []policyText) {
	staged := map[string]bool{}
	for _, ns := range c.Namespaces {
		staged[ns.Name], _ = policy.StagedBy(ns.Annotations)
	}
	for _, cnp := range c.ClusterPolicies {
		is, _ := policy.StagedBy(cnp.Annotations)
		all = append(all, policyText{Kind: "ClusterNetworkPolicy", Name: cnp.Name, Staged: is, object: cnp})
	}
	for _, np := range c.Policies {
		is, _ := policy.StagedBy(np.Annotations)
		all = append(all, policyText{Kind: "NetworkPolicy", Namespace: np.Namespace, Name: np.Name, Staged: is || staged[np.Namespace], object: np})
	}
	slices.SortStableFunc(all, func(a, b policyText) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return all
}

func (p policyText) is(kind, namespace, name string) bool {
	return p.Kind == kind && p.Namespace == namespace && p.Name == name
}

// yaml is the policy as its author would write it: without what the API server keeps beside it.
func (p policyText) yaml() string {
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(p.object)
	if err != nil {
		return fmt.Sprintf("# it cannot be shown: %v\n", err)
	}
	object["apiVersion"], object["kind"] = "networking.k8s.io/v1", p.Kind
	if p.Kind == "ClusterNetworkPolicy" {
		object["apiVersion"] = "policy.networking.k8s.io/v1beta1"
	}
	delete(object, "status")
	if meta, is := object["metadata"].(map[string]any); is {
		for _, field := range []string{"managedFields", "uid", "resourceVersion", "generation", "creationTimestamp", "selfLink"} {
			delete(meta, field)
		}
		if annotations, is := meta["annotations"].(map[string]any); is {
			delete(annotations, corev1.LastAppliedConfigAnnotation)
			if len(annotations) == 0 {
				delete(meta, "annotations")
			}
		}
	}
	text, err := yaml.Marshal(object)
	if err != nil {
		return fmt.Sprintf("# it cannot be shown: %v\n", err)
	}
	return string(text)
}

// lines is where a field is written in the text, from its first to its last line, or the nearest field around it. Of the
// first field of a list's item it is the item.
func (p markedPolicy) lines(path string) (from, to int, is bool) {
	read, err := manifests.Read([]string{"-"}, manifests.ReadOptions{Stdin: strings.NewReader(p.YAML)})
	if err != nil {
		return 0, 0, false
	}
	_, from, is = read.Place(p.Kind, p.Namespace, p.Name, path)
	all := strings.Split(p.YAML, "\n")
	if !is || from < 1 || from > len(all) {
		return 0, 0, false
	}
	// What is written further to the right, and the items of a list that begin below its name, belong to it.
	first := all[from-1]
	indent, isItem := indentOf(first), strings.HasPrefix(strings.TrimSpace(first), "- ")
	for to = from; to < len(all); to++ {
		next := all[to]
		ofList := !isItem && indentOf(next) == indent && strings.HasPrefix(strings.TrimSpace(next), "- ")
		if strings.TrimSpace(next) == "" || indentOf(next) <= indent && !ofList {
			break
		}
	}
	return from, to, true
}

func indentOf(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// listPolicies is GET api/policies: ?namespace=NAME, or all.
func listPolicies(m *moment, r *http.Request) (any, error) {
	namespace := r.URL.Query().Get("namespace")
	list := struct {
		Policies []policyText `json:"policies"`
	}{[]policyText{}}
	for _, p := range m.policies {
		if namespace == "" || p.Namespace == namespace {
			list.Policies = append(list.Policies, p)
		}
	}
	if len(list.Policies) <= mostTexts {
		for i := range list.Policies {
			list.Policies[i].YAML = list.Policies[i].yaml()
		}
	}
	return list, nil
}

// onePolicy is GET api/policy: ?kind=KIND&namespace=NAME&name=NAME.
func onePolicy(m *moment, r *http.Request) (any, error) {
	values := r.URL.Query()
	for _, p := range m.policies {
		if p.is(values.Get("kind"), values.Get("namespace"), values.Get("name")) {
			p.YAML = p.yaml()
			return p, nil
		}
	}
	return nil, errors.New("there is no such policy: give its kind, namespace and name")
}
