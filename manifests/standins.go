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
	// selector is what it selects its pods by; nil: it has none of its own, as a Job.
	selector *metav1.LabelSelector
	// pods is how many stand for all: two where there may be several, so that one can be asked to reach
	// the other.
	pods int
	// none: it makes no pods any more, as a Job that is complete or has failed, or as a ReplicaSet that
	// something has scaled down.
	none bool
	// completions is, of a Job, after how many pods that have succeeded it is complete; else 0.
	completions int
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
		t.template, t.selector, t.pods = o.Spec.Template, o.Spec.Selector, several(o.Spec.Replicas)
	case *appsv1.ReplicaSet:
		t.template, t.pods = o.Spec.Template, several(o.Spec.Replicas)
		t.none = o.Spec.Replicas != nil && *o.Spec.Replicas == 0 && metav1.GetControllerOfNoCopy(o) != nil // an old revision
	case *appsv1.StatefulSet:
		t.template, t.selector, t.pods = o.Spec.Template, o.Spec.Selector, several(o.Spec.Replicas)
	case *appsv1.DaemonSet:
		t.template, t.selector, t.pods = o.Spec.Template, o.Spec.Selector, 2
	case *corev1.ReplicationController:
		t.pods = several(o.Spec.Replicas)
		if o.Spec.Template != nil {
			t.template = *o.Spec.Template
		}
	case *batchv1.Job:
		t.template, t.pods, t.completions = o.Spec.Template, 1, 1
		if o.Spec.Completions != nil {
			t.completions = int(*o.Spec.Completions)
		}
		t.none = t.completions == 0 || slices.ContainsFunc(o.Status.Conditions, func(c batchv1.JobCondition) bool {
			return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
		})
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

// NextPods returns pods that stand for the next ones of those CronJobs of a cluster that have none, as between
// two runs, with placeholders as addresses. workloads are what pods may be owned by. Nothing of the cluster is
// changed.
func NextPods(s policy.Snapshot, workloads []*metav1.PartialObjectMetadata, cronJobs []*batchv1.CronJob) []*corev1.Pod {
	o := &Objects{Snapshot: s, Workloads: workloads}
	for _, cronJob := range cronJobs {
		t, _ := templateOf("CronJob", cronJob)
		o.templates = append(o.templates, t)
	}
	pods, a := o.nextPods(), o.placeholders()
	for _, pod := range pods {
		a.give(pod)
	}
	return pods
}

// nextPods are the pods that stand for those of workloads that have none.
func (o *Objects) nextPods() (pods []*corev1.Pod) {
	names := map[id]bool{}
	for _, pod := range o.Pods {
		names[idOf(pod)] = true
	}
	for _, t := range o.withoutPods() {
		o.StandIns = append(o.StandIns, fmt.Sprintf("%s %s/%s", t.owner.Kind, t.owner.Namespace, t.owner.Name))
		for i, made := 0, 0; made < t.pods; i++ {
			if pod := t.pod(i); !names[idOf(pod)] { // another workload of this name has such a pod, or one that has ended
				names[idOf(pod)] = true
				pods = append(pods, pod)
				made++
			}
		}
	}
	return pods
}

// standIn makes pods of workloads that have none, and gives addresses to pods that have none. A pod
// without a node runs on the given one.
func (o *Objects) standIn(node string) {
	o.Pods = append(o.Pods, o.nextPods()...)
	slices.SortFunc(o.Pods, byName[*corev1.Pod])
	a := o.placeholders()
	for _, pod := range o.Pods {
		if pod.Spec.NodeName == "" {
			pod.Spec.NodeName = node
		}
		if len(pod.Status.PodIPs) > 0 || pod.Status.PodIP != "" || ended(pod) || pod.Spec.HostNetwork {
			continue
		}
		if pod.Annotations[v1alpha1.StandInAnnotation] == "" {
			o.StandIns = append(o.StandIns, fmt.Sprintf("Pod %s/%s", pod.Namespace, pod.Name))
			markStandIn(pod)
		}
		a.give(pod)
	}
}

// withoutPods are the workloads that will make pods and have none: neither by themselves nor by what they
// control. Pods that have ended do not count, as others take their place. Of workloads that control one
// another, the pods of the topmost one stand for all; but a Job has begun, and its next pod is not that
// of the CronJob's next Job.
func (o *Objects) withoutPods() (all []podTemplate) {
	controllers, pods, succeeded := map[id]id{}, map[id]bool{}, map[id]int{}
	for _, w := range o.Workloads {
		controllers[workloadOf(w)] = id{}
	}
	for _, w := range o.Workloads {
		if controller, known := controllerOf(w); known {
			if _, has := controllers[controller]; has {
				controllers[workloadOf(w)] = controller
			}
		}
	}
	for _, pod := range o.Pods {
		at, has := controllerOf(pod)
		switch {
		case !has:
		case pod.Status.Phase == corev1.PodSucceeded:
			succeeded[at]++
		case !ended(pod):
			for ; at != (id{}) && !pods[at]; at = controllers[at] {
				pods[at] = true
			}
		}
	}
	for _, t := range o.templates {
		self := workloadOf(t.owner)
		complete := t.completions > 0 && succeeded[self] >= t.completions
		controlled := controllers[self] != (id{}) && self.kind != "Job"
		if !pods[self] && !t.none && !complete && !controlled {
			all = append(all, t)
		}
	}
	return all
}

// ended reports whether a pod has ended, so that its address may be another pod's.
func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func idOf(pod *corev1.Pod) id { return id{"Pod", pod.Namespace, pod.Name} }

func workloadOf(w *metav1.PartialObjectMetadata) id { return id{w.Kind, w.Namespace, w.Name} }

// controllerOf is what controls an object; false: nothing does.
func controllerOf(o metav1.Object) (id, bool) {
	ref := metav1.GetControllerOfNoCopy(o)
	if ref == nil {
		return id{}, false
	}
	return id{ref.Kind, o.GetNamespace(), ref.Name}, true
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
	for _, service := range o.Services {
		six = six || slices.Contains(service.Spec.IPFamilies, corev1.IPv6Protocol) || strings.Contains(service.Spec.ClusterIP+strings.Join(service.Spec.ClusterIPs, ""), ":")
	}
	if six {
		p.elsewhere = append(p.elsewhere, elsewhere6)
	}
	return p
}

// give gives addresses to a pod, unless it has those of its node.
func (p *placeholders) give(pod *corev1.Pod) {
	if pod.Spec.HostNetwork {
		return
	}
	for _, addr := range p.next(pod.Spec.NodeName) {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: addr.String()})
	}
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
