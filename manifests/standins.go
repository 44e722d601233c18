package manifests

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/policy"
)

// podTemplate is what a workload makes pods of.
type podTemplate struct {
	owner    *metav1.PartialObjectMetadata
	template corev1.PodTemplateSpec
	// pods is how many stand for all: two where there may be several, so that one can be asked to reach
	// the other.
	pods int
}

// templateOf is what a workload makes pods of; false: the object is no workload.
func templateOf(kind string, obj metav1.Object) (t podTemplate, is bool) {
	several := func(replicas *int32) int {
		if replicas == nil || *replicas < 2 {
			return 1
		}
		return 2
	}
	switch o := obj.(type) {
	case *appsv1.Deployment:
		t.template, t.pods = o.Spec.Template, several(o.Spec.Replicas)
	case *appsv1.ReplicaSet:
		t.template, t.pods = o.Spec.Template, several(o.Spec.Replicas)
	case *appsv1.StatefulSet:
		t.template, t.pods = o.Spec.Template, several(o.Spec.Replicas)
	case *appsv1.DaemonSet:
		t.template, t.pods = o.Spec.Template, 2
	case *corev1.ReplicationController:
		t.pods = several(o.Spec.Replicas)
		if o.Spec.Template != nil {
			t.template = *o.Spec.Template
		}
	case *batchv1.Job:
		t.template, t.pods = o.Spec.Template, 1
	case *batchv1.CronJob:
		t.template, t.pods = o.Spec.JobTemplate.Spec.Template, 1
	default:
		return t, false
	}
	t.owner = &metav1.PartialObjectMetadata{TypeMeta: typeMeta(kind), ObjectMeta: metav1.ObjectMeta{
		Namespace: obj.GetNamespace(), Name: obj.GetName(), Labels: obj.GetLabels(), OwnerReferences: obj.GetOwnerReferences(),
	}}
	return t, true
}

// standIn makes pods of workloads that have none, and gives addresses to pods that have none. A pod
// without a node runs on the given one.
func (o *Objects) standIn(node string) {
	owners := o.owners()
	for _, t := range o.templates {
		self := id{t.owner.Kind, t.owner.Namespace, t.owner.Name}
		if owners[self] || metav1.GetControllerOfNoCopy(t.owner) != nil {
			continue // its pods are there, or stand for its owner
		}
		o.StandIns = append(o.StandIns, fmt.Sprintf("%s %s/%s", self.kind, self.namespace, self.name))
		for i := range t.pods {
			o.Pods = append(o.Pods, t.pod(i))
		}
	}
	slices.SortFunc(o.Pods, byName[*corev1.Pod])
	a := o.placeholders()
	for _, pod := range o.Pods {
		if pod.Spec.NodeName == "" {
			pod.Spec.NodeName = node
		}
		if len(pod.Status.PodIPs) > 0 || pod.Status.PodIP != "" || pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		if pod.Annotations[v1alpha1.StandInAnnotation] == "" {
			o.StandIns = append(o.StandIns, fmt.Sprintf("Pod %s/%s", pod.Namespace, pod.Name))
			markStandIn(pod)
		}
		for _, addr := range a.next(pod.Spec.NodeName) {
			pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: addr.String()})
		}
	}
}

// owners are the workloads that have pods, by themselves or by what they control.
func (o *Objects) owners() map[id]bool {
	of := map[id]id{}
	for _, w := range o.Workloads {
		if ref := metav1.GetControllerOfNoCopy(w); ref != nil {
			of[id{w.Kind, w.Namespace, w.Name}] = id{ref.Kind, w.Namespace, ref.Name}
		}
	}
	have := map[id]bool{}
	for _, pod := range o.Pods {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil {
			continue
		}
		for at := (id{ref.Kind, pod.Namespace, ref.Name}); at != (id{}) && !have[at]; at = of[at] {
			have[at] = true
		}
	}
	return have
}

// pod is the pod of a number that stands for those of a workload.
func (t podTemplate) pod(i int) *corev1.Pod {
	yes := true
	pod := &corev1.Pod{TypeMeta: typeMeta("Pod"), ObjectMeta: *t.template.ObjectMeta.DeepCopy(), Spec: *t.template.Spec.DeepCopy()}
	pod.Namespace, pod.Name = t.owner.Namespace, fmt.Sprintf("%s-%d", t.owner.Name, i)
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: t.owner.APIVersion, Kind: t.owner.Kind, Name: t.owner.Name, Controller: &yes}}
	setDefaults(pod)
	markStandIn(pod)
	return pod
}

func markStandIn(pod *corev1.Pod) {
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[v1alpha1.StandInAnnotation] = "true"
}

// placeholders gives out addresses that no pod of the files has.
type placeholders struct {
	used map[netip.Addr]bool
	// ranges are the podCIDRs by node.
	ranges map[string][]netip.Prefix
	// elsewhere are where addresses come from without such: ranges that no policy has a reason to name, so
	// that an ipBlock means the placeholder only if it means every address.
	elsewhere []netip.Prefix
}

// The ranges of placeholders: addresses reserved for future use (RFC 1112 section 4), and for
// documentation (RFC 3849).
var (
	elsewhere4 = netip.MustParsePrefix("240.0.0.0/8")
	elsewhere6 = netip.MustParsePrefix("2001:db8:ffff::/112")
)

// placeholders looks which addresses are taken, and whether the files have to do with IPv6.
func (o *Objects) placeholders() *placeholders {
	p := &placeholders{used: map[netip.Addr]bool{}, ranges: map[string][]netip.Prefix{}, elsewhere: []netip.Prefix{elsewhere4}}
	six := false
	for _, node := range o.Nodes {
		p.ranges[node.Name] = policy.NodeOf(node).PodCIDRs
		six = six || slices.ContainsFunc(p.ranges[node.Name], func(r netip.Prefix) bool { return r.Addr().Is6() })
	}
	for _, pod := range o.Pods {
		if seen, live := policy.PodOf(pod); live {
			for _, addr := range seen.IPs {
				p.used[addr], six = true, six || addr.Is6()
			}
		}
	}
	for _, np := range o.Policies {
		for _, r := range np.Spec.Ingress {
			for _, peer := range r.From {
				six = six || peer.IPBlock != nil && strings.Contains(peer.IPBlock.CIDR, ":")
			}
		}
		for _, r := range np.Spec.Egress {
			for _, peer := range r.To {
				six = six || peer.IPBlock != nil && strings.Contains(peer.IPBlock.CIDR, ":")
			}
		}
	}
	for _, cnp := range o.ClusterPolicies {
		for _, r := range cnp.Spec.Egress {
			for _, peer := range r.To {
				for _, cidr := range peer.Networks {
					six = six || strings.Contains(string(cidr), ":")
				}
			}
		}
	}
	if six {
		p.elsewhere = append(p.elsewhere, elsewhere6)
	}
	return p
}

// next are the addresses of one more pod, one of each family.
func (p *placeholders) next(node string) (addrs []netip.Addr) {
	ranges := p.ranges[node]
	if len(ranges) == 0 {
		ranges = p.elsewhere
	}
	for _, r := range ranges {
		// The first two are often the network's and the gateway's.
		addr := r.Addr().Next().Next()
		for p.used[addr] && r.Contains(addr) {
			addr = addr.Next()
		}
		if r.Contains(addr) {
			p.used[addr] = true
			addrs = append(addrs, addr)
		}
	}
	return addrs
}
