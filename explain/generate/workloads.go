package generate

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// unit is a workload, or several that no labels tell apart.
type unit struct {
	namespace string
	of        []explain.Object
	pods      []*corev1.Pod
	// selector means all of its pods, and no pods of other units; nil: there is none, as the pods have no label in
	// common that stays.
	selector *metav1.LabelSelector
	// strangers are units that the selector means pods of all the same.
	strangers []*unit

	ingress, egress needs
	seen            bool        // policies decide about one of its connections
	standIn         *corev1.Pod // stands for its pods, if none of them runs
}

// name is the unit as people write it.
func (u *unit) name() string {
	names := make([]string, len(u.of))
	for i, o := range u.of {
		names[i] = explain.Party{Kind: explain.Kind(o.Kind), Namespace: o.Namespace, Name: o.Name}.String()
	}
	return strings.Join(names, " and ")
}

// settled are the kinds that make pods of one template and keep their names. What owns these in turn, such as an
// operator's object, may own others too.
var settled = []string{"Deployment", "StatefulSet", "DaemonSet", "CronJob", "ReplicationController"}

// workloadOf is the workload that a pod belongs to, or the pod itself.
func (g *generator) workloadOf(pod *corev1.Pod) explain.Object {
	owners := g.explainer.Owners(pod)
	if at := slices.IndexFunc(owners, func(o explain.Object) bool { return slices.Contains(settled, o.Kind) }); at >= 0 {
		return owners[at]
	}
	if len(owners) == 0 || owners[len(owners)-1].Kind == "Node" { // a static pod's mirror is controlled by its Node
		return explain.Object{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name}
	}
	last := owners[len(owners)-1]
	if parts := ofCronJob.FindStringSubmatch(last.Name); last.Kind == "Job" && !g.workloads[last] && parts != nil {
		if by := (explain.Object{Kind: "CronJob", Namespace: last.Namespace, Name: parts[1]}); g.workloads[by] {
			return by
		}
	}
	return last
}

// ofCronJob is the name of a Job that a CronJob has made, which may be gone by now: behind the CronJob's name is the
// minute for which it was made.
var ofCronJob = regexp.MustCompile(`^(.+)-[0-9]+$`)

// makeUnits puts pods together: those on the pods' network that run, stand for others or begin, and those that were
// seen and have ended. They are in the order of namespaces and names.
func (g *generator) makeUnits() (all []*unit) {
	pods := maps.Clone(g.gone)
	for key, pod := range g.pods {
		if !ended(pod) {
			pods[key] = pod
		}
	}
	for p := range g.connections {
		for _, e := range []end{p.source, p.destination} {
			if e.isPod() {
				pods[e.pod] = g.podOf(e.pod)
			}
		}
	}
	maps.DeleteFunc(pods, func(_ policy.Key, pod *corev1.Pod) bool { return pod.Spec.HostNetwork })
	byWorkload := map[explain.Object]*unit{}
	byNamespace := map[string][]*unit{}
	for _, key := range slices.SortedFunc(maps.Keys(pods), compareKeys) {
		w := g.workloadOf(pods[key])
		u := byWorkload[w]
		if u == nil {
			u = &unit{namespace: key.Namespace, of: []explain.Object{w}}
			byWorkload[w] = u
			byNamespace[key.Namespace] = append(byNamespace[key.Namespace], u)
		}
		u.pods = append(u.pods, pods[key])
	}
	for _, namespace := range slices.Sorted(maps.Keys(byNamespace)) {
		units := byNamespace[namespace]
		slices.SortFunc(units, func(a, b *unit) int { return compareObjects(a.of[0], b.of[0]) })
		all = append(all, g.tellApart(units)...)
	}
	for _, u := range all {
		for _, pod := range u.pods {
			g.unitOf[policy.Key{Namespace: pod.Namespace, Name: pod.Name}] = u
		}
	}
	return all
}

func compareKeys(a, b policy.Key) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func compareObjects(a, b explain.Object) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind))
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// tellApart finds a selector for each unit of a namespace. Units whose selectors cannot help meaning others' pods
// become one with these.
func (g *generator) tellApart(units []*unit) []*unit {
	for {
		for _, u := range units {
			u.choose(units, g.cluster.Selectors)
		}
		merged := merge(units)
		if len(merged) == len(units) {
			return units
		}
		units = merged
	}
}

// merge makes one unit of those that mean each other's pods. A unit without a selector stays alone: nothing is
// gained by having no selector for the other either.
func merge(units []*unit) (all []*unit) {
	into := map[*unit]*unit{}
	root := func(u *unit) *unit {
		for into[u] != nil {
			u = into[u]
		}
		return u
	}
	for _, u := range units {
		for _, other := range u.strangers {
			if a, b := root(u), root(other); a != b && other.selector != nil {
				into[b] = a
			}
		}
	}
	made := map[*unit]*unit{}
	for _, u := range units {
		m := made[root(u)]
		if m == nil {
			m = &unit{namespace: u.namespace}
			made[root(u)] = m
			all = append(all, m)
		}
		m.of, m.pods = append(m.of, u.of...), append(m.pods, u.pods...)
	}
	return all
}

// choose finds the selector of a unit. It begins with the workload's own, and adds as few labels as tell the pods
// from those of the other units.
func (u *unit) choose(units []*unit, selectors map[explain.Object]*metav1.LabelSelector) {
	common := commonLabels(u.pods)
	chosen := u.own(selectors)
	if chosen == nil {
		chosen = &metav1.LabelSelector{MatchLabels: stableLabels(common)}
	}
	u.selector, u.strangers = nil, nil
	if isEmpty(chosen) {
		return
	}
	var others []stranger
	for _, other := range units {
		for _, pod := range other.pods {
			if other != u {
				others = append(others, stranger{other, pod.Labels})
			}
		}
	}
	others = selected(chosen, others)
	for len(others) > 0 {
		best, left := chosen, others
		for _, next := range stricter(chosen, common, u.pods, others) {
			if still := selected(next, others); len(still) < len(left) {
				best, left = next, still
			}
		}
		if best == chosen {
			break
		}
		chosen, others = best, left
	}
	u.selector = chosen
	for _, s := range others {
		if !slices.Contains(u.strangers, s.of) {
			u.strangers = append(u.strangers, s.of)
		}
	}
}

// stranger is a pod of another unit.
type stranger struct {
	of     *unit
	labels map[string]string
}

// selected are the pods that a selector means.
func selected(by *metav1.LabelSelector, from []stranger) (means []stranger) {
	selector, err := metav1.LabelSelectorAsSelector(by)
	if err != nil {
		return nil
	}
	for _, s := range from {
		if selector.Matches(labels.Set(s.labels)) {
			means = append(means, s)
		}
	}
	return means
}

// stricter are selectors that ask for one label more: that pods have one that all have, or do not have one that
// none has.
func stricter(s *metav1.LabelSelector, common map[string]string, pods []*corev1.Pod, others []stranger) (all []*metav1.LabelSelector) {
	for _, key := range slices.Sorted(maps.Keys(common)) {
		if _, has := s.MatchLabels[key]; !has {
			next := s.DeepCopy()
			if next.MatchLabels == nil {
				next.MatchLabels = map[string]string{}
			}
			next.MatchLabels[key] = common[key]
			all = append(all, next)
		}
	}
	keys := map[string]bool{}
	for _, other := range others {
		for key := range other.labels {
			keys[key] = !passing(key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if !keys[key] || slices.ContainsFunc(pods, func(pod *corev1.Pod) bool { _, has := pod.Labels[key]; return has }) {
			continue
		}
		next := s.DeepCopy()
		next.MatchExpressions = append(next.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOpDoesNotExist})
		slices.SortFunc(next.MatchExpressions, func(a, b metav1.LabelSelectorRequirement) int { return cmp.Compare(a.Key, b.Key) })
		all = append(all, next)
	}
	return all
}

// own is the selector that the owner of the pods has, without labels that pass. It is nil if there is none, or
// several that differ, or if it does not mean all of the pods, as after a label was changed.
func (u *unit) own(selectors map[explain.Object]*metav1.LabelSelector) *metav1.LabelSelector {
	var own *metav1.LabelSelector
	for _, o := range u.of {
		by := selectors[o]
		if by == nil {
			return nil
		}
		by = by.DeepCopy()
		maps.DeleteFunc(by.MatchLabels, func(key, _ string) bool { return passing(key) })
		by.MatchExpressions = slices.DeleteFunc(by.MatchExpressions, func(r metav1.LabelSelectorRequirement) bool { return passing(r.Key) })
		if own != nil && metav1.FormatLabelSelector(own) != metav1.FormatLabelSelector(by) {
			return nil
		}
		own = by
	}
	selector, err := metav1.LabelSelectorAsSelector(own)
	if err != nil || isEmpty(own) || slices.ContainsFunc(u.pods, func(pod *corev1.Pod) bool { return !selector.Matches(labels.Set(pod.Labels)) }) {
		return nil
	}
	return own
}

func isEmpty(s *metav1.LabelSelector) bool { return len(s.MatchLabels)+len(s.MatchExpressions) == 0 }

// passing reports whether a label differs from pod to pod of a workload, or from one version of it to the next.
func passing(key string) bool { return slices.Contains(explain.ControllersLabels, key) }

// released are labels that change with each release of what they are on (Helm's and Kubernetes' recommended ones).
var released = []string{"app.kubernetes.io/version", "helm.sh/chart"}

// commonLabels are those that all pods have, but for those that pass.
func commonLabels(pods []*corev1.Pod) map[string]string {
	common := map[string]string{}
	for key, value := range pods[0].Labels {
		if !passing(key) && !slices.ContainsFunc(pods, func(pod *corev1.Pod) bool { has, is := pod.Labels[key]; return !is || has != value }) {
			common[key] = value
		}
	}
	return common
}

// stableLabels are those of labels that stay from one release to the next; all, if that leaves none.
func stableLabels(common map[string]string) map[string]string {
	stable := maps.Clone(common)
	maps.DeleteFunc(stable, func(key, _ string) bool { return slices.Contains(released, key) })
	if len(stable) == 0 {
		return common
	}
	return stable
}
