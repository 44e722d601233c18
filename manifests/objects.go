package manifests

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
)

// What every refusal of a kind says: of what is enforced, and of what is read for questions.
const (
	readsPolicies = "NetworkPolicy of networking.k8s.io/v1, ClusterNetworkPolicy of policy.networking.k8s.io/v1beta1 and v1alpha2, and lists of these"
	readsEnforced = "podfence reads Pod, Namespace and Node of v1, " + readsPolicies
	readsAsked    = "podfence reads Pod, Namespace, Node, Service and ReplicationController of v1, Deployment, ReplicaSet, StatefulSet and DaemonSet of apps/v1, " +
		"Job and CronJob of batch/v1, EndpointSlice of discovery.k8s.io/v1, " + readsPolicies
)

// reads is what a refusal of a kind says.
func (r *reader) reads() string {
	if r.questions {
		return readsAsked
	}
	return readsEnforced
}

// versions are the kinds that are read, with their apiVersions. Those of one kind are the same
// but for their name, and the first is what the object is taken for.
var versions = map[string][]string{
	"Pod":                  {corev1.SchemeGroupVersion.String()},
	"Namespace":            {corev1.SchemeGroupVersion.String()},
	"Node":                 {corev1.SchemeGroupVersion.String()},
	"NetworkPolicy":        {networkingv1.SchemeGroupVersion.String()},
	"ClusterNetworkPolicy": {clusterv1beta1.GroupVersion.String(), clusterv1beta1.GroupName + "/v1alpha2"},
}

// newObject returns an empty object of a kind that is read.
func newObject(kind string) metav1.Object {
	meta := typeMeta(kind)
	switch kind {
	case "Service":
		return &corev1.Service{TypeMeta: meta}
	case "EndpointSlice":
		return &discoveryv1.EndpointSlice{TypeMeta: meta}
	case "Deployment":
		return &appsv1.Deployment{TypeMeta: meta}
	case "ReplicaSet":
		return &appsv1.ReplicaSet{TypeMeta: meta}
	case "StatefulSet":
		return &appsv1.StatefulSet{TypeMeta: meta}
	case "DaemonSet":
		return &appsv1.DaemonSet{TypeMeta: meta}
	case "ReplicationController":
		return &corev1.ReplicationController{TypeMeta: meta}
	case "Job":
		return &batchv1.Job{TypeMeta: meta}
	case "CronJob":
		return &batchv1.CronJob{TypeMeta: meta}
	case "Pod":
		return &corev1.Pod{TypeMeta: meta}
	case "Namespace":
		return &corev1.Namespace{TypeMeta: meta}
	case "Node":
		return &corev1.Node{TypeMeta: meta}
	case "ClusterNetworkPolicy":
		return &clusterv1beta1.ClusterNetworkPolicy{TypeMeta: meta}
	}
	return &networkingv1.NetworkPolicy{TypeMeta: meta}
}

func typeMeta(kind string) metav1.TypeMeta {
	version, _ := versionsOf(kind, true)
	return metav1.TypeMeta{APIVersion: version[0], Kind: kind}
}

// impliedNamespace is a namespace that no manifest has.
func impliedNamespace(name string) *corev1.Namespace {
	ns := &corev1.Namespace{TypeMeta: typeMeta("Namespace"), ObjectMeta: metav1.ObjectMeta{Name: name}}
	setDefaults(ns)
	return ns
}

// namespaced reports whether objects of a kind are in a namespace.
func namespaced(kind string) bool {
	return kind != "Namespace" && kind != "Node" && kind != "ClusterNetworkPolicy"
}

// anyList is any of the list kinds.
type anyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []json.RawMessage `json:"items"`
}

// document reads one document: an object or a list of them. An error is about an item that was not
// read with the document, but later.
func (r *reader) document(file string, n *node) *syntaxError { return r.read(file, n, "") }

// read reads an object or a list. An item of a PodList is a Pod though it does
// not say so: that is how the API server writes it.
func (r *reader) read(file string, n *node, implied string) *syntaxError {
	report := func(path string, err error) {
		r.found = append(r.found, &Error{File: file, Line: n.lineOf(path), Field: path, Err: err})
	}
	if n.kind != object {
		report("", fmt.Errorf("must be an object, not %s: %s", n.kind, r.reads()))
		return nil
	}
	kind, version := n.str("kind"), n.str("apiVersion")
	if implied != "" && n.get("kind") == nil && n.get("apiVersion") == nil {
		of, _ := versionsOf(implied, true)
		kind, version = implied, of[0]
	}
	item := strings.TrimSuffix(kind, "List")
	want, _ := versionsOf(item, r.questions)
	if kind == "List" {
		want = []string{"v1"}
	}
	switch {
	case kind == "":
		report("kind", field.Required(field.NewPath("kind"), r.reads()))
	case version == "":
		report("apiVersion", field.Required(field.NewPath("apiVersion"), r.reads()))
	case len(want) == 0 && !resembles(item, version):
		r.skip(file, n, kind)
	case r.questions && ofOtherVersion(item, version):
		r.skip(file, n, kind+" of "+version)
	case len(want) == 0:
		report("kind", fmt.Errorf("no kind %q in version %q: %s", kind, version, r.reads()))
	case !slices.Contains(want, version):
		report("apiVersion", fmt.Errorf("no kind %q in version %q: %s", kind, version, r.reads()))
	case implied != "" && kind != implied:
		report("kind", fmt.Errorf("a %s in a list of %s", kind, implied))
	case item != kind:
		return r.list(file, n, kind, item)
	default:
		r.object(file, n, kind)
	}
	return nil
}

func (r *reader) list(file string, n *node, kind, item string) *syntaxError {
	r.checker.check(n, reflect.TypeFor[anyList](), nil, n.line, r.finds(file, kind))
	items := n.get("items")
	if items == nil {
		return nil
	}
	for _, i := range items.items {
		if i.kind != null { // which is a finding already
			if err := r.read(file, i, item); err != nil {
				return err
			}
		}
	}
	if items.later == nil {
		return nil
	}
	for i, p := range items.later.items {
		node, err := items.later.item(p)
		switch {
		case err != nil:
			return err
		case node.kind == null:
			empty := emptyItem(field.NewPath("items").Index(i))
			r.finds(file, kind)(node.line, field.NewPath("items").Index(i), empty)
		default:
			if err := r.read(file, node, item); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *reader) finds(file, object string) finding {
	return func(line int, path *field.Path, err error) {
		e := &Error{File: file, Line: line, Object: object, Err: err}
		if path != nil {
			e.Field = path.String()
		}
		r.found = append(r.found, e)
	}
}

// object reads one object. What a decoder accepts is validated even where the
// checker had findings, so that all of them come at once.
func (r *reader) object(file string, n *node, kind string) {
	name := describe(n, kind)
	found := r.finds(file, name)
	obj := newObject(kind)
	before := len(r.found)
	generated := n.str("metadata", "generateName") // which nobody else reads
	r.checker.prune(n, reflect.TypeOf(obj), fieldsOf(kind, r.questions))
	r.checker.check(n, reflect.TypeOf(obj), nil, n.line, found)
	if err := utiljson.Unmarshal(n.appendJSON(nil), obj); err != nil {
		if len(r.found) == before {
			found(n.line, nil, err)
		}
		return
	}
	setDefaults(obj)
	if obj.GetName() == "" && generated != "" && r.questions && runs(kind) {
		obj.SetName(r.generate(kind, obj.GetNamespace(), generated))
	}
	for _, p := range validate(kind, obj, n) {
		r.found = append(r.found, &Error{File: file, Line: n.lineOf(p.at), Object: name, Field: p.err.Field, Err: p.err})
	}
	r.add(file, n, kind, obj)
}

// runs reports whether objects of a kind are pods, or make some.
func runs(kind string) bool {
	return kind == "Pod" || kind != "Service" && kind != "EndpointSlice" && questionVersions[kind] != nil
}

// generate is a name for an object whose name the API server would generate, as it does for hooks of Helm that
// kubectl create makes: the beginning that the file has, and the first number that is free.
func (r *reader) generate(kind, namespace, beginning string) string {
	for i := 1; ; i++ {
		name := fmt.Sprintf("%sgenerated-%d", beginning, i)
		if _, taken := r.places[id{kind, namespace, name}]; !taken {
			return name
		}
	}
}

// describe names an object that may not decode.
func describe(n *node, kind string) string {
	name, namespace := n.str("metadata", "name"), n.str("metadata", "namespace")
	switch {
	case name == "":
		return kind
	case !namespaced(kind):
		return kind + " " + name
	case namespace == "":
		namespace = metav1.NamespaceDefault
	}
	return kind + " " + namespace + "/" + name
}

// setDefaults fills in what the API server would, as far as policy looks at it.
func setDefaults(obj metav1.Object) {
	switch o := obj.(type) {
	case *corev1.Namespace:
		if o.Labels == nil {
			o.Labels = map[string]string{}
		}
		o.Labels[corev1.LabelMetadataName] = o.Name
	case *corev1.Pod:
		o.Namespace = orDefault(o.Namespace)
		// Of annotations, policy reads whose mirror a pod is (policy.PodOf).
		mirror, is := o.Annotations[corev1.MirrorPodAnnotationKey]
		if o.Annotations = nil; is {
			o.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: mirror}
		}
		for _, containers := range [][]corev1.Container{o.Spec.InitContainers, o.Spec.Containers} {
			for i := range containers {
				for j := range containers[i].Ports {
					if port := &containers[i].Ports[j]; port.Protocol == "" {
						port.Protocol = corev1.ProtocolTCP
					}
				}
			}
		}
	case *networkingv1.NetworkPolicy:
		o.Namespace = orDefault(o.Namespace)
		setPolicyDefaults(&o.Spec)
	case *corev1.Service, *discoveryv1.EndpointSlice, *appsv1.Deployment, *appsv1.ReplicaSet, *appsv1.StatefulSet, *appsv1.DaemonSet,
		*corev1.ReplicationController, *batchv1.Job, *batchv1.CronJob:
		obj.SetNamespace(orDefault(obj.GetNamespace()))
	case *clusterv1beta1.ClusterNetworkPolicy:
		o.TypeMeta = typeMeta("ClusterNetworkPolicy") // as if it were asked for in that version
	}
}

func orDefault(namespace string) string {
	if namespace == "" {
		return metav1.NamespaceDefault
	}
	return namespace
}

func setPolicyDefaults(spec *networkingv1.NetworkPolicySpec) {
	if len(spec.PolicyTypes) == 0 {
		spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(spec.Egress) > 0 {
			spec.PolicyTypes = append(spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	for i := range spec.Ingress {
		setPortDefaults(spec.Ingress[i].Ports)
	}
	for i := range spec.Egress {
		setPortDefaults(spec.Egress[i].Ports)
	}
}

func setPortDefaults(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		if ports[i].Protocol == nil {
			ports[i].Protocol = new(corev1.ProtocolTCP)
		}
	}
}
