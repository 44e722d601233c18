package controllers_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/agent"
	"github.com/podfence/podfence/api/v1alpha1"
	"github.com/podfence/podfence/cni/handshake"
	"github.com/podfence/podfence/controllers/enforcer"
	"github.com/podfence/podfence/test/recorder"
)

// schemeWithOwn knows Kubernetes' objects, podfence's, ClusterNetworkPolicies, and how they are defined.
func schemeWithOwn() *runtime.Scheme {
	GinkgoHelper()
	scheme := runtime.NewScheme()
	Expect(clientgoscheme.AddToScheme(scheme)).To(Succeed())
	Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())
	Expect(apiextensionsv1.AddToScheme(scheme)).To(Succeed())
	Expect(clusterv1beta1.Install(scheme)).To(Succeed())
	return scheme
}

// as is a client of who logs in so.
func as(config *rest.Config) client.Client {
	GinkgoHelper()
	c, err := client.New(config, client.Options{Scheme: schemeWithOwn()})
	Expect(err).NotTo(HaveOccurred())
	return c
}

// agentOf is how the agent of a node logs in: by a service account token that is bound to its pod,
// as kubelet asks for it. The service account has the role that is deployed.
func agentOf(ctx context.Context, node string) *rest.Config {
	GinkgoHelper()
	const namespace, name = "podfence-system", "podfence-agent"
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, account,
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name + "s"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}},
		},
	} {
		Expect(client.IgnoreAlreadyExists(admin.Create(ctx, object))).To(Succeed())
	}
	nodeNamed(node)
	pod := create(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: "podfence-agent-"},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: name, HostNetwork: true,
			Containers: []corev1.Container{{Name: "agent", Image: "podfence"}},
		},
	})
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	Expect(admin.SubResource("token").Create(ctx, account, request)).To(Succeed())
	config := rest.AnonymousClientConfig(environment.Config)
	config.BearerToken = request.Status.Token
	return config
}

// admissionObjects reads what config/admission installs.
func admissionObjects() (policy *admissionv1.ValidatingAdmissionPolicy, binding *admissionv1.ValidatingAdmissionPolicyBinding) {
	GinkgoHelper()
	text, err := os.ReadFile(filepath.Join("..", "config", "admission", "podaddresses.yaml"))
	Expect(err).NotTo(HaveOccurred())
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	policy, binding = &admissionv1.ValidatingAdmissionPolicy{}, &admissionv1.ValidatingAdmissionPolicyBinding{}
	for _, object := range []client.Object{policy, binding} {
		document, err := documents.Read()
		Expect(err).NotTo(HaveOccurred())
		Expect(yaml.UnmarshalStrict(document, object)).To(Succeed())
	}
	return policy, binding
}

// refuseLies installs config/admission, and waits until the API server goes by it.
func refuseLies(ctx context.Context) {
	GinkgoHelper()
	policy, binding := admissionObjects()
	Expect(client.IgnoreAlreadyExists(admin.Create(ctx, policy))).To(Succeed())
	Expect(client.IgnoreAlreadyExists(admin.Create(ctx, binding))).To(Succeed())
	Eventually(func() error {
		return as(environment.Config).Create(ctx, announcement("no-node"), client.DryRunAll)
	}, soon, often).Should(MatchError(apierrors.IsForbidden, "forbidden"))
}

// announcement is what the agent of a node says of pods.
func announcement(node string, pods ...v1alpha1.PodAddress) *v1alpha1.PodAddresses {
	return &v1alpha1.PodAddresses{ObjectMeta: metav1.ObjectMeta{Name: node}, Pods: pods}
}

// said says that a pod has these addresses.
func said(pod *corev1.Pod, ips ...netip.Addr) v1alpha1.PodAddress {
	all := v1alpha1.PodAddress{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, Since: v1alpha1.Now()}
	for _, ip := range ips {
		all.IPs = append(all.IPs, ip.String())
	}
	return all
}

// announcing is an agent that connects pods; its kernel only notes what it is told.
type announcing struct {
	*running
	*cluster
	kernel *recorder.Kernel
	socket string
}

// announce starts an agent with a login.
func announce(c *cluster, login *rest.Config, how agent.PeersFirst) *announcing {
	GinkgoHelper()
	a := &announcing{cluster: c, kernel: &recorder.Kernel{}}
	dir := GinkgoT().TempDir()
	a.socket = filepath.Join(dir, "agent.sock")
	a.running = run(a.kernel, agent.Options{Node: c.node, API: login, PeersFirst: how, CNI: &agent.CNI{
		Socket: a.socket, State: filepath.Join(dir, "attachments"),
		Bridge: &enforcer.Bridge{Kernel: a.kernel, Gateway: func(p netip.Prefix) netip.Addr { return p.Addr().Next() }},
	}})
	a.awaitReady()
	return a
}

// on is on once announcements are made and believed.
func (a *announcing) on() {
	GinkgoHelper()
	Eventually(a.metricOf("podfence_announcing"), soon, often).Should(BeEquivalentTo(1))
}

// add is a pod's ADD, and del the DEL of the same container.
func (a *announcing) add(ctx context.Context, pod *corev1.Pod, ips ...netip.Addr) error {
	return handshake.Call(ctx, a.socket, handshake.Request{
		Op: handshake.OpAdd, ContainerID: "c-" + ips[0].String(), IfName: "eth0", HostInterface: "pf" + ips[0].String(),
		Pod: handshake.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}, IPs: ips,
	})
}

func (a *announcing) del(ctx context.Context, ips ...netip.Addr) error {
	return handshake.Call(ctx, a.socket, handshake.Request{Op: handshake.OpDel, ContainerID: "c-" + ips[0].String(), IfName: "eth0"})
}

var element = regexp.MustCompile(`(?m)^(add|delete) element inet podfence peers-[46]-\S+ \{ (.*) \}$`)

// peer reports whether the kernel has an address in the sets of peers.
func (a *announcing) peer(ip netip.Addr) func() bool {
	return func() (is bool) {
		for _, plan := range a.kernel.Plans() {
			for _, match := range element.FindAllStringSubmatch(plan.Text(), -1) {
				for _, member := range strings.Split(match[2], ", ") {
					if member == ip.String() {
						is = match[1] == "add"
					}
				}
			}
		}
		return is
	}
}

var _ = Describe("Announcements", Ordered, func() {
	var (
		home, away *cluster     // a new pod's node, and the one whose pod lets it in
		login      *rest.Config // the agent's on home
		webs       int
	)
	// newPod makes a pod that has no address yet, which the policy on away lets in.
	newPod := func(node string, change ...func(*corev1.Pod)) *corev1.Pod {
		webs++
		return home.pod("shop", fmt.Sprintf("web-%d", webs), map[string]string{"app": "web"}, append(change, func(p *corev1.Pod) { p.Spec.NodeName = node })...)
	}

	BeforeAll(func(ctx SpecContext) { refuseLies(ctx) })

	BeforeEach(func(ctx SpecContext) {
		home, away = newCluster(), newCluster()
		for _, c := range []*cluster{home, away} {
			c.giveRange(c.nodeObject())
		}
		home.namespace("shop", nil)
		login = agentOf(ctx, home.node)
		db := home.pod("shop", "db", map[string]string{"app": "db"}, func(p *corev1.Pod) { p.Spec.NodeName = away.node })
		runsAt(db, away.ips(2)...)
		home.policy("shop", "db", `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`)
	})

	It("tell other nodes a pod's address before its status does, and take it back", func(ctx SpecContext) {
		here, there := announce(home, login, agent.PeersRequire), announce(away, agentOf(ctx, away.node), agent.PeersPrefer)
		here.on()
		there.on()
		web := newPod(home.node)
		Expect(here.add(ctx, web, home.ips(5)...)).To(Succeed())
		for _, ip := range home.ips(5) {
			Eventually(there.peer(ip), soon, often).Should(BeTrue())
		}
		Expect(here.metric("podfence_announcements_total", "result=success")).To(BeEquivalentTo(1))
		observed := func() uint64 {
			families, err := there.registry.Gather()
			Expect(err).NotTo(HaveOccurred())
			for _, family := range families {
				if family.GetName() == "podfence_peer_address_seconds" {
					return family.GetMetric()[0].GetHistogram().GetSampleCount()
				}
			}
			return 0
		}
		Eventually(observed, soon, often).Should(BeEquivalentTo(1))
		Expect(here.del(ctx, home.ips(5)...)).To(Succeed())
		for _, ip := range home.ips(5) {
			Eventually(there.peer(ip), soon, often).Should(BeFalse())
		}

		By("until the status shows others")
		Expect(here.add(ctx, web, home.ips(6)...)).To(Succeed())
		Eventually(there.peer(home.ips(6)[0]), soon, often).Should(BeTrue())
		runsAt(web, home.ips(7)...)
		Eventually(there.peer(home.ips(7)[0]), soon, often).Should(BeTrue())
		Expect(there.peer(home.ips(6)[0])()).To(BeFalse())

		By("and until the pod is gone, or its Node")
		gone, left := newPod(home.node), newPod(home.node)
		Expect(here.add(ctx, gone, home.ips(8)...)).To(Succeed())
		Expect(here.add(ctx, left, home.ips(9)...)).To(Succeed())
		Eventually(there.peer(home.ips(9)[0]), soon, often).Should(BeTrue())
		remove(gone)
		Eventually(there.peer(home.ips(8)[0]), soon, often).Should(BeFalse())
		here.stop()
		Expect(there.peer(home.ips(9)[0])()).To(BeTrue(), "its agent has only stopped")
		remove(nodeNamed(home.node))
		Eventually(there.peer(home.ips(9)[0]), soon, often).Should(BeFalse())
	})

	It("tell of a pod's new sandbox while the status shows the old one", func(ctx SpecContext) {
		here, there := announce(home, login, agent.PeersRequire), announce(away, agentOf(ctx, away.node), agent.PeersPrefer)
		here.on()
		there.on()
		web := newPod(home.node)
		runsAt(web, home.ips(5)...)
		Eventually(there.peer(home.ips(5)[0]), soon, often).Should(BeTrue())
		Eventually(func() []string { // as soon as its own node's agent has seen the status, too
			Expect(here.del(ctx, home.ips(6)...)).To(Succeed())
			Expect(here.add(ctx, web, home.ips(6)...)).To(Succeed())
			object := announcement(home.node)
			Expect(admin.Get(ctx, client.ObjectKeyFromObject(object), object)).To(Succeed())
			return object.Pods[len(object.Pods)-1].Supersedes
		}, soon, often).ShouldNot(BeEmpty())
		Eventually(there.peer(home.ips(6)[0]), soon, often).Should(BeTrue())
		Eventually(there.peer(home.ips(5)[0]), soon, often).Should(BeFalse())
	})

	It("are refused by the API server from everybody but the node's own agent", func(ctx SpecContext) {
		agents := as(login)
		Expect(agents.Create(ctx, announcement(home.node))).To(Succeed())
		DeferCleanup(func() { remove(announcement(home.node)) })
		own := announcement(home.node)
		Expect(as(environment.Config).Get(ctx, client.ObjectKeyFromObject(own), own)).To(Succeed())
		web := newPod(home.node)
		lie := said(web, home.ips(5)...)

		// Whoever may edit pods and namespaces, even all of them, is no agent.
		tenant := impersonated("tenant", "edit")
		root := impersonated("root", "cluster-admin")
		liars := map[string]client.Client{
			"another node's agent": as(agentOf(ctx, away.node)), "a user with the agents' role": as(agentUser),
			"a tenant": as(tenant), "an administrator": as(root),
		}
		for who, liar := range liars {
			changed := own.DeepCopy()
			changed.Pods = []v1alpha1.PodAddress{lie}
			applied, err := yaml.Marshal(&v1alpha1.PodAddresses{
				TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "PodAddresses"},
				ObjectMeta: metav1.ObjectMeta{Name: home.node}, Pods: changed.Pods,
			})
			Expect(err).NotTo(HaveOccurred())
			for how, err := range map[string]error{
				"create": liar.Create(ctx, announcement(home.node+"-not-yet", lie)),
				"update": liar.Update(ctx, changed.DeepCopy()),
				"patch":  liar.Patch(ctx, changed.DeepCopy(), client.MergeFrom(own)),
				"apply":  liar.Patch(ctx, announcement(home.node), client.RawPatch(types.ApplyPatchType, applied), client.FieldOwner("liar"), client.ForceOwnership),
				"status": liar.Status().Update(ctx, changed.DeepCopy()),
				"scale":  liar.SubResource("scale").Patch(ctx, changed.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":1}}`))),
			} {
				refused := apierrors.IsForbidden(err) || (how == "status" || how == "scale") && apierrors.IsNotFound(err)
				Expect(refused).To(BeTrue(), "%s, %s: %v", who, how, err)
			}
		}
		// What only takes away is for administrators; not even for the agent itself.
		for _, who := range []client.Client{agents, liars["another node's agent"], liars["a tenant"]} {
			Expect(who.Delete(ctx, announcement(home.node))).To(MatchError(apierrors.IsForbidden, "forbidden"))
			Expect(who.DeleteAllOf(ctx, &v1alpha1.PodAddresses{})).To(MatchError(apierrors.IsForbidden, "forbidden"))
		}
		Expect(as(environment.Config).Get(ctx, client.ObjectKeyFromObject(own), own)).To(Succeed())
		Expect(own.Pods).To(BeEmpty())
		own.Pods = []v1alpha1.PodAddress{lie}
		Expect(agents.Update(ctx, own)).To(Succeed(), "the node's own agent may say so")
	})

	It("mean nothing on other objects, whatever a tenant writes into a pod", func(ctx SpecContext) {
		there := announce(away, agentOf(ctx, away.node), agent.PeersPrefer)
		there.on()
		text, err := yaml.Marshal(announcement(home.node, said(newPod(home.node), home.ips(5)...)))
		Expect(err).NotTo(HaveOccurred())
		newPod(home.node, func(p *corev1.Pod) {
			p.Annotations = map[string]string{"podfence.io/addresses": string(text), "podfence.io/podaddresses": home.ips(5)[0].String()}
			p.Status.PodIP = home.ips(5)[0].String() // which create drops
		})
		ephemeral := newPod(home.node)
		ephemeral.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			Name: "debug", Image: "none", Env: []corev1.EnvVar{{Name: "PODFENCE_ADDRESSES", Value: home.ips(5)[0].String()}}, TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		}}}
		Expect(admin.SubResource("ephemeralcontainers").Update(ctx, ephemeral)).To(Succeed())
		Consistently(there.peer(home.ips(5)[0]), while, often).Should(BeFalse())
	})

	It("open nothing that an agent that was taken over could wish for", func(ctx SpecContext) {
		there := announce(away, agentOf(ctx, away.node), agent.PeersPrefer)
		there.on()
		stolen := as(login)
		mine, others := newPod(home.node), newPod(away.node)
		elsewhere := netip.MustParseAddr("172.31.7.7")
		object := announcement(home.node)
		Expect(stolen.Create(ctx, object)).To(Succeed())
		DeferCleanup(func() { remove(announcement(home.node)) })
		say := func(pods ...v1alpha1.PodAddress) {
			object.Pods = pods
			Expect(stolen.Update(ctx, object)).To(Succeed())
		}
		// What comes after a truth was taken in after all that was said before.
		truth, n := newPod(home.node), 20
		heard := func() {
			n++
			say(append(object.Pods, said(truth, home.ips(n)...))...)
			Eventually(there.peer(home.ips(n)[0]), soon, often).Should(BeTrue())
		}
		for what, lie := range map[string]v1alpha1.PodAddress{
			"a pod of another node":        said(others, home.ips(5)...),
			"an earlier pod of the name":   func() v1alpha1.PodAddress { p := said(mine, home.ips(5)...); p.UID = "earlier"; return p }(),
			"an address of another node":   said(mine, away.ips(5)...),
			"an address outside its range": said(mine, elsewhere),
			"a time that is none":          func() v1alpha1.PodAddress { p := said(others, home.ips(5)...); p.Since = "in a moment"; return p }(),
			"one of each":                  said(mine, home.ips(5)[0], elsewhere),
		} {
			say(lie)
			heard()
			for _, text := range lie.IPs {
				Expect(there.peer(netip.MustParseAddr(text))()).To(BeFalse(), "%s: %s", what, text)
			}
		}
		By("and where two claim an address, both must be let in")
		stranger := newPod(home.node, func(p *corev1.Pod) { p.Labels = map[string]string{"app": "stranger"} })
		runsAt(stranger, home.ips(6)...)
		say(said(mine, home.ips(6)...))
		heard()
		Expect(there.peer(home.ips(6)[0])()).To(BeFalse())
		By("and one pod has one announcement")
		say(said(mine, home.ips(7)...), said(mine, home.ips(8)...))
		heard()
		Expect(there.peer(home.ips(7)[0])()).To(BeFalse())
		Expect(there.peer(home.ips(8)[0])()).To(BeFalse())
	})

	It("keep an ADD waiting for a while, or for good, while the API server does not take them", func(ctx SpecContext) {
		web := newPod(home.node)
		stuck := &stuckWrites{}
		prefers := announce(home, stuck.guard(login), agent.PeersPrefer)
		prefers.on()
		stuck.on.Store(true)
		began := time.Now()
		Expect(prefers.add(ctx, web, home.ips(5)...)).To(Succeed())
		Expect(time.Since(began)).To(BeNumerically(">", 4*time.Second))
		Expect(prefers.metric("podfence_announcements_total", "result=error")).To(BeEquivalentTo(1))
		Expect(prefers.log.With("Cannot tell other nodes")).To(HaveLen(1))
		prefers.stop()
		stuck.on.Store(false)

		requires := announce(home, stuck.guard(login), agent.PeersRequire)
		requires.on()
		stuck.on.Store(true)
		short, cancel := context.WithTimeout(ctx, 8*time.Second)
		defer cancel()
		Expect(requires.add(short, web, home.ips(6)...)).To(MatchError(ContainSubstring("--peers-first")))
		stuck.on.Store(false)
		Expect(requires.add(ctx, web, home.ips(7)...)).To(Succeed())
	})

	// The last, as it takes away what the others need.
	It("are off where the API server does not refuse lies, and say so", func(ctx SpecContext) {
		policy, binding := admissionObjects()
		remove(binding)
		remove(policy)
		DeferCleanup(func(ctx SpecContext) { refuseLies(ctx) })
		Eventually(func() error { return as(login).Create(ctx, announcement("not-"+home.node), client.DryRunAll) }, soon, often).Should(Succeed())
		off := announce(home, login, agent.PeersPrefer)
		Eventually(func() []string { return off.log.With("config/admission") }, soon, often).Should(HaveLen(1))
		Expect(off.metric("podfence_announcing")).To(BeZero())
		Expect(off.add(ctx, newPod(home.node), home.ips(5)...)).To(Succeed())
		Expect(as(environment.Config).Get(ctx, client.ObjectKey{Name: home.node}, &v1alpha1.PodAddresses{})).To(MatchError(apierrors.IsNotFound, "not found"))
		By("nor is what others announce believed")
		web := newPod(away.node)
		Expect(as(environment.Config).Create(ctx, announcement(away.node, said(web, away.ips(9)...)))).To(Succeed())
		DeferCleanup(func() { remove(announcement(away.node)) })
		Consistently(off.peer(away.ips(9)[0]), while, often).Should(BeFalse())
	})
})

// impersonated is a user with one of Kubernetes' roles.
func impersonated(name, role string) *rest.Config {
	GinkgoHelper()
	create(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
	})
	config := rest.CopyConfig(environment.Config)
	config.Impersonate = rest.ImpersonationConfig{UserName: name}
	return config
}

// stuckWrites has an API server not answer writes of PodAddresses, as one whose etcd is stuck.
type stuckWrites struct{ on atomic.Bool }

func (s *stuckWrites) guard(config *rest.Config) *rest.Config {
	guarded := rest.CopyConfig(config)
	guarded.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if s.on.Load() && r.Method != http.MethodGet && strings.Contains(r.URL.Path, "/podaddresses") {
				<-r.Context().Done()
				return nil, errors.Join(errors.New("stuck"), r.Context().Err())
			}
			return next.RoundTrip(r)
		})
	})
	return guarded
}
