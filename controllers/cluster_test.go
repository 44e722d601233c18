package controllers_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/yaml"
)

// cluster is a spec's part of the API server: a node name, namespaces and
// addresses that no other spec uses.
type cluster struct {
	number int
	node   string
}

var clusters atomic.Int32

func newCluster() *cluster {
	number := int(clusters.Add(1))
	return &cluster{number: number, node: fmt.Sprintf("node-%d", number)}
}

// name is the full name of a namespace.
func (c *cluster) name(namespace string) string {
	return fmt.Sprintf("spec-%d-%s", c.number, namespace)
}

// ips are the addresses of the cluster's i-th pod, one of each family.
func (c *cluster) ips(i int) []netip.Addr {
	return []netip.Addr{
		netip.MustParseAddr(fmt.Sprintf("10.244.%d.%d", c.number, i)),
		netip.MustParseAddr(fmt.Sprintf("fd00:244:0:%x::%x", c.number, i)),
	}
}

// podCIDRs are what ips are from.
func (c *cluster) podCIDRs() []string {
	return []string{fmt.Sprintf("10.244.%d.0/24", c.number), fmt.Sprintf("fd00:244:0:%x::/64", c.number)}
}

// create makes an object that does not outlive the spec: the next ones' agents
// watch all namespaces.
func create[T client.Object](object T) T {
	GinkgoHelper()
	Expect(admin.Create(context.Background(), object)).To(Succeed())
	DeferCleanup(func() { remove(object) })
	return object
}

// remove deletes an object at once, as kubelet does when a pod has ended.
func remove(object client.Object) {
	GinkgoHelper()
	ctx := context.Background()
	key := client.ObjectKeyFromObject(object)
	if namespace, is := object.(*corev1.Namespace); is {
		removeNamespace(namespace)
		return
	}
	err := admin.Delete(ctx, object, client.GracePeriodSeconds(0))
	Expect(client.IgnoreNotFound(err)).To(Succeed())
	Expect(admin.Get(ctx, key, object)).To(MatchError(apierrors.IsNotFound, "not found"))
}

// removeNamespace does what the namespace controller does, which is not there:
// it finalises the namespace. The objects in it stay.
func removeNamespace(namespace *corev1.Namespace) {
	GinkgoHelper()
	ctx := context.Background()
	err := admin.Delete(ctx, namespace)
	if apierrors.IsNotFound(err) {
		return
	}
	Expect(err).NotTo(HaveOccurred())
	key := client.ObjectKeyFromObject(namespace)
	Expect(admin.Get(ctx, key, namespace)).To(Succeed())
	namespace.Spec.Finalizers = nil
	Expect(admin.SubResource("finalize").Update(ctx, namespace)).To(Succeed())
	Eventually(func() error { return admin.Get(ctx, key, &corev1.Namespace{}) }, soon, often).
		Should(MatchError(apierrors.IsNotFound, "not found"))
}

func (c *cluster) namespace(name string, labels map[string]string) *corev1.Namespace {
	GinkgoHelper()
	return create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: c.name(name), Labels: labels}})
}

// pod makes a pod of the cluster's node, which has no address yet.
func (c *cluster) pod(namespace, name string, labels map[string]string, change ...func(*corev1.Pod)) *corev1.Pod {
	GinkgoHelper()
	pod := c.podObject(namespace, name, labels)
	for _, f := range change {
		f(pod)
	}
	return create(pod)
}

func (c *cluster) podObject(namespace, name string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.name(namespace), Name: name, Labels: labels},
		Spec: corev1.PodSpec{
			NodeName:   c.node,
			Containers: []corev1.Container{{Name: "main", Image: "none", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}}},
		},
	}
}

// runsAt has a pod run at these addresses, as kubelet reports it.
func runsAt(pod *corev1.Pod, ips ...netip.Addr) {
	GinkgoHelper()
	patchStatus(pod, func(s *corev1.PodStatus) {
		s.Phase = corev1.PodRunning
		s.PodIPs = nil
		for _, ip := range ips {
			s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip.String()})
		}
		s.PodIP = s.PodIPs[0].IP
		if s.StartTime == nil {
			s.StartTime = &metav1.Time{Time: time.Now().Truncate(time.Second)}
		}
	})
}

func patchStatus(pod *corev1.Pod, change func(*corev1.PodStatus)) {
	GinkgoHelper()
	before := pod.DeepCopy()
	change(&pod.Status)
	Expect(admin.Status().Patch(context.Background(), pod, client.MergeFrom(before))).To(Succeed())
}

// relabel changes an object's labels.
func relabel(object client.Object, labels map[string]string) {
	GinkgoHelper()
	before := object.DeepCopyObject().(client.Object)
	object.SetLabels(labels)
	Expect(admin.Patch(context.Background(), object, client.MergeFrom(before))).To(Succeed())
}

// policy makes a NetworkPolicy, or changes it, to have this spec.
func (c *cluster) policy(namespace, name, spec string) *networkingv1.NetworkPolicy {
	GinkgoHelper()
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: c.name(namespace), Name: name}}
	result, err := controllerutil.CreateOrUpdate(context.Background(), admin, np, func() error {
		np.Spec = networkingv1.NetworkPolicySpec{}
		return yaml.UnmarshalStrict([]byte(spec), &np.Spec)
	})
	Expect(err).NotTo(HaveOccurred())
	if result == controllerutil.OperationResultCreated {
		DeferCleanup(func() { remove(np) })
	}
	return np
}

// nodeObject is the Node, which has no pod range yet.
func (c *cluster) nodeObject() *corev1.Node { return nodeNamed(c.node) }

// nodeNamed makes a Node, if there is none of that name.
func nodeNamed(name string) *corev1.Node {
	GinkgoHelper()
	node := &corev1.Node{}
	err := admin.Get(context.Background(), client.ObjectKey{Name: name}, node)
	if apierrors.IsNotFound(err) {
		return create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	Expect(err).NotTo(HaveOccurred())
	return node
}

// giveRange gives a node its pod range, as a cloud's controller does later.
func (c *cluster) giveRange(node *corev1.Node) {
	GinkgoHelper()
	before := node.DeepCopy()
	node.Spec.PodCIDRs = c.podCIDRs()
	node.Spec.PodCIDR = node.Spec.PodCIDRs[0]
	Expect(admin.Patch(context.Background(), node, client.MergeFrom(before))).To(Succeed())
}
