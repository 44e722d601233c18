package controllers

import (
	"math/rand"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/policy"
	"github.com/podfence/podfence/test/random"
)

// kept is what the cache keeps of an object.
func kept(t *testing.T, object any) any {
	t.Helper()
	is := object
	if pod, cached := object.(*cachedPod); cached {
		is = &corev1.Pod{ObjectMeta: pod.ObjectMeta}
	}
	for kind, by := range cacheOptions(newPodSizes(), newPolicySizes()).ByObject {
		if reflect.TypeOf(kind) == reflect.TypeOf(is) {
			kept, err := by.Transform(object)
			if err != nil {
				t.Fatal(err)
			}
			return kept
		}
	}
	t.Fatalf("the cache keeps all of a %T", object)
	return nil
}

// transformed is what the cache would keep of an object, if that is an object of
// the same type.
func transformed[T client.Object](t *testing.T, object T) T {
	t.Helper()
	return kept(t, object.DeepCopyObject()).(T)
}

// What the model reads of an object must not depend on whether the object went
// through the cache.
func TestCacheKeepsWhatIsRead(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	for range 2000 {
		samePod(t, random.OddPod(r, r.Intn(12), 12))
		same(t, policy.NamespaceOf, random.Namespace(r, r.Intn(3)))
		same(t, parsed, random.Policy(r, r.Intn(8)))
		sameCluster(t, random.ClusterPolicy(r, r.Intn(6)))
		same(t, func(o *v1alpha1.PodAddresses) policy.Change { return policy.ChangeOf(o) }, random.PodAddresses(r, []*corev1.Pod{random.Pod(r, 1), random.Pod(r, 2)}))
	}
	for _, node := range random.Nodes() {
		same(t, policy.NodeOf, node)
	}
}

// The same for objects with all the fields that the random ones lack.
func TestCacheKeepsWhatIsReadOfFullObjects(t *testing.T) {
	samePod(t, fullPod())
	older := fullPod()
	older.Status.PodIPs = nil // as from an API server before 1.16
	samePod(t, older)
	same(t, policy.NodeOf, fullNode())
	single := fullNode()
	single.Spec.PodCIDRs = nil
	same(t, policy.NodeOf, single)
	broken := random.Policy(rand.New(rand.NewSource(1)), 1)
	broken.Spec.Ingress = append(broken.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{
		From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "nowhere"}}},
	})
	broken.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	if _, problems := policy.Parse(broken); len(problems) == 0 {
		t.Fatal("the broken policy has no problems")
	}
	same(t, parsed, broken)
}

// TestCacheKeepsOneAnnotation: of a Namespace's annotations, the cache keeps the one that is read.
func TestCacheKeepsOneAnnotation(t *testing.T) {
	for _, annotations := range []map[string]string{nil, {"other": "x"}, {flows.DropLogAnnotation: "true", "other": "x"}, {flows.DropLogAnnotation: ""}} {
		var want map[string]string
		if value, has := annotations[flows.DropLogAnnotation]; has {
			want = map[string]string{flows.DropLogAnnotation: value}
		}
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Annotations: annotations}}
		if got := transformed(t, ns).Annotations; !reflect.DeepEqual(got, want) {
			t.Errorf("of %v the cache keeps %v", annotations, got)
		}
		same(t, policy.NamespaceOf, ns)
	}
}

func samePod(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	full := pod.DeepCopy()
	cached := kept(t, pod).(*cachedPod)
	if read, seen := policy.PodOf(full); seen != (cached.seen != nil) || seen && !reflect.DeepEqual(read, cached.seen) {
		t.Errorf("pod %s is read as\n%+v\nand the cache keeps\n%+v", pod.Name, read, cached.seen)
	}
	// The cache, its handlers and the queue go by these.
	if cached.UID != full.UID || cached.ResourceVersion != full.ResourceVersion || client.ObjectKeyFromObject(cached) != client.ObjectKeyFromObject(full) {
		t.Errorf("the cache keeps %+v of %+v", cached.ObjectMeta, full.ObjectMeta)
	}
	if again := kept(t, cached); again != any(cached) {
		t.Errorf("what went through the cache's transform comes out of it as %+v", again)
	}
	if copied := cached.DeepCopyObject().(*cachedPod); copied == cached || !reflect.DeepEqual(copied, cached) {
		t.Errorf("the copy of %+v is %+v", cached, copied)
	}
}

func parsed(np *networkingv1.NetworkPolicy) any {
	read, problems := policy.Parse(np)
	return []any{read, problems}
}

func same[T client.Object, V any](t *testing.T, read func(T) V, object T) {
	t.Helper()
	full := object.DeepCopyObject().(T)
	stripped := transformed(t, object)
	if a, b := read(full), read(stripped); !reflect.DeepEqual(a, b) {
		t.Errorf("%T %s: the full object is read as\n%+v\nand what the cache keeps as\n%+v", object, object.GetName(), a, b)
	}
	// The reconcilers and the cache itself need these.
	type identity struct {
		key             client.ObjectKey
		uid, version    string
		generation      int64
		labels          map[string]string
		deleted, exists *metav1.Time
	}
	of := func(o client.Object) identity {
		created := o.GetCreationTimestamp()
		return identity{
			client.ObjectKeyFromObject(o), string(o.GetUID()), o.GetResourceVersion(), o.GetGeneration(),
			o.GetLabels(), o.GetDeletionTimestamp(), &created,
		}
	}
	if !reflect.DeepEqual(of(full), of(stripped)) {
		t.Errorf("%T: the cache keeps %+v of %+v", object, of(stripped), of(full))
	}
	again := transformed(t, stripped)
	if !reflect.DeepEqual(stripped, again) {
		t.Errorf("%T: stripping twice is not stripping once", object)
	}
}

func TestCacheKeepsLittle(t *testing.T) {
	full := fullPod()
	pod := kept(t, full.DeepCopy()).(*cachedPod)
	identity := metav1.ObjectMeta{Namespace: full.Namespace, Name: full.Name, UID: full.UID, ResourceVersion: full.ResourceVersion}
	if !reflect.DeepEqual(pod.ObjectMeta, identity) {
		t.Errorf("the cache keeps %+v", pod.ObjectMeta)
	}
	if node := transformed(t, fullNode()); node.Annotations != nil || node.Status.Capacity != nil || node.Status.Images != nil {
		t.Errorf("the cache keeps %+v", node)
	}
}

// When a watch missed a deletion, the cache is handed a tombstone, which must
// reach it.
func TestCachePassesTombstones(t *testing.T) {
	tombstone := toolscache.DeletedFinalStateUnknown{Key: "shop/web", Obj: fullPod()}
	for kind, by := range cacheOptions(newPodSizes(), newPolicySizes()).ByObject {
		passed, err := by.Transform(tombstone)
		if err != nil || !reflect.DeepEqual(passed, tombstone) {
			t.Errorf("%T: the tombstone comes out as %v, %v", kind, passed, err)
		}
	}
}

// What one agent watches of the cluster, and all of it, goes through a transform.
func TestCacheKnowsAllKinds(t *testing.T) {
	for _, object := range []client.Object{&corev1.Pod{}, &corev1.Namespace{}, &corev1.Node{}, &networkingv1.NetworkPolicy{}, &v1alpha1.PodAddresses{}} {
		kept(t, object)
	}
	if kinds := len(cacheOptions(newPodSizes(), newPolicySizes()).ByObject); kinds != 5 {
		t.Errorf("%d kinds, of which 5 are known here", kinds)
	}
}

func fullMeta() metav1.ObjectMeta {
	at := metav1.NewTime(time.Unix(1700000000, 0))
	return metav1.ObjectMeta{
		Namespace: "shop", Name: "web", GenerateName: "web-", UID: "uid", ResourceVersion: "7", Generation: 3,
		CreationTimestamp: at, DeletionTimestamp: &at, Labels: map[string]string{"app": "web"},
		Annotations: map[string]string{"a": "b"}, Finalizers: []string{"f"},
		OwnerReferences: []metav1.OwnerReference{{Name: "owner"}}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}},
	}
}

func fullPod() *corev1.Pod {
	started := metav1.NewTime(time.Unix(1700000100, 0))
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: fullMeta(),
		Spec: corev1.PodSpec{
			NodeName: "node", ServiceAccountName: "sa", Volumes: []corev1.Volume{{Name: "v"}},
			InitContainers: []corev1.Container{{Name: "sidecar", Ports: []corev1.ContainerPort{{Name: "admin", ContainerPort: 9, Protocol: corev1.ProtocolUDP}}}},
			Containers: []corev1.Container{
				{Name: "web", Image: "i", Env: []corev1.EnvVar{{Name: "E"}}, Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80, HostPort: 8080}, {ContainerPort: 81}}},
				{Name: "unnamed", Ports: []corev1.ContainerPort{{ContainerPort: 82}}},
			},
			EphemeralContainers: []corev1.EphemeralContainer{{TargetContainerName: "web"}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, StartTime: &started, HostIP: "192.0.2.1", PodIP: "10.244.1.2",
			PodIPs:            []corev1.PodIP{{IP: "10.244.1.2"}, {IP: "fd00::2"}},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "web"}}, Conditions: []corev1.PodCondition{{Type: "Ready"}},
		},
	}
}

func fullNode() *corev1.Node {
	node := &corev1.Node{ObjectMeta: fullMeta(), Spec: corev1.NodeSpec{PodCIDR: "10.244.1.0/24", PodCIDRs: []string{"10.244.1.0/24", "fd00::/64"}, ProviderID: "p"}}
	node.Namespace = ""
	node.Status = corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
		Capacity:  corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")},
		Images:    []corev1.ContainerImage{{Names: []string{"i"}}},
	}
	return node
}
