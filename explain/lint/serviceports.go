package lint

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podfence/podfence/policy"
)

// services are the Services of a cluster that have pods behind them, and which ports those pods declare.
type services struct {
	byNamespace map[string][]service
	pods        map[policy.Key]*corev1.Pod
}

type service struct {
	*corev1.Service
	selector labels.Selector
}

func servicesOf(all []*corev1.Service, pods map[policy.Key]*corev1.Pod) *services {
	s := &services{byNamespace: map[string][]service{}, pods: pods}
	for _, one := range all {
		if len(one.Spec.Selector) > 0 {
			s.byNamespace[one.Namespace] = append(s.byNamespace[one.Namespace], service{one, labels.SelectorFromSet(one.Spec.Selector)})
		}
	}
	for _, of := range s.byNamespace {
		slices.SortFunc(of, func(a, b service) int {
			if a.Name < b.Name {
				return -1
			}
			return 1
		})
	}
	return s
}

// servicePorts finds ports that are those of a Service before the pods that the rule is about, while the
// Service sends to another port, which the rule does not have, and no container declares the rule's.
func (l *linter) servicePorts(w *written, s *services) {
	for _, r := range w.rules {
		if !r.accepts {
			continue // a rule that denies may well be meant for what nobody listens on
		}
		destinations, _ := l.destinations(w, r)
		for _, p := range r.ports {
			if p.name != "" || p.first != p.last || p.protocol == 0 {
				continue
			}
			if found, target, is := l.behind(destinations, p, r, s); is {
				l.add(w, ServicePort, Warning, p.path, "%d is the port of Service %s/%s, and its pods get what is sent there on port %d, which is what policies see; name that",
					p.first, found.Namespace, found.Name, target)
			}
		}
	}
}

// behind looks for a Service of that port before pods, all of which get it on another one.
func (l *linter) behind(destinations []*pods, p port, r rule, s *services) (found service, target int32, is bool) {
	for _, to := range destinations {
		if to.selected.selectsAll() && to.namespace == "" && to.namespaces.selectsAll() {
			return found, 0, false // all pods are meant: the port may be any of theirs
		}
		for of := range l.find(l.seen, to) {
			for _, pod := range of.pods {
				object := s.pods[pod.Key]
				if object == nil || declares(object, p) {
					return found, 0, false
				}
			}
			for _, before := range s.byNamespace[of.namespace] {
				if !before.selector.Matches(of.labels) {
					continue
				}
				at, other, mapped := targetOf(before.Service, s.pods[of.pods[0].Key], p)
				switch {
				case other:
					return found, 0, false
				case mapped && slices.ContainsFunc(r.ports, func(also port) bool {
					return also.protocol == p.protocol && (also.name != "" || also.first <= at && at <= also.last)
				}):
					return found, 0, false
				case mapped && !is:
					found, target, is = before, at, true
				}
			}
		}
	}
	return found, target, is
}

// declares reports whether a container of a pod declares a port.
func declares(pod *corev1.Pod, p port) bool {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, has := range c.Ports {
			if protocol, known := protocolOf(has.Protocol); known && protocol == p.protocol && has.ContainerPort == p.first {
				return true
			}
		}
	}
	return false
}

// targetOf says on which port of a pod a Service's port arrives, if that is another; and whether
// some port of the Service arrives on the very port that the rule has. Nothing translates the ports of a
// headless Service: none of them arrives on another.
func targetOf(s *corev1.Service, pod *corev1.Pod, p port) (target int32, same, mapped bool) {
	for _, has := range s.Spec.Ports {
		if protocol, known := protocolOf(has.Protocol); !known || protocol != p.protocol {
			continue
		}
		at, known := resolve(has, pod)
		switch {
		case known && at == p.first:
			return 0, true, false
		case has.Port == p.first && known && s.Spec.ClusterIP != corev1.ClusterIPNone:
			target, mapped = at, true
		}
	}
	return target, false, mapped
}

// resolve is the port of a pod that a Service's port means; false: the pod has none of that name.
func resolve(p corev1.ServicePort, pod *corev1.Pod) (int32, bool) {
	if p.TargetPort.Type == intstr.Int {
		if p.TargetPort.IntVal == 0 {
			return p.Port, true
		}
		return p.TargetPort.IntVal, true
	}
	if number, err := strconv.ParseInt(p.TargetPort.StrVal, 10, 32); err == nil {
		return int32(number), true
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, has := range c.Ports {
			if has.Name == p.TargetPort.StrVal && (has.Protocol == p.Protocol || has.Protocol == "" || p.Protocol == "") {
				return has.ContainerPort, true
			}
		}
	}
	return 0, false
}
