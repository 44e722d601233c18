package clusterstatus_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/controllers/clusterstatus"
)

var _ = Describe("The condition Accepted", func() {
	var (
		namespace string
		config    *rest.Config
	)
	BeforeEach(func(ctx SpecContext) {
		install(ctx, "v1beta1", "v1alpha2")
		namespace, config = account(ctx)
	})

	It("is True of a policy that can be enforced", func(ctx SpecContext) {
		cnp := admin.create(ctx)
		start(namespace, config)
		got := admin.accepted(cnp, metav1.ConditionTrue)
		Expect(got.Reason).To(Equal(clusterstatus.ReasonAccepted))
		Expect(got.LastTransitionTime.Time).To(BeTemporally("~", time.Now(), 2*soon))
	})

	It("names the fields that cannot be enforced, until they are gone", func(ctx SpecContext) {
		writer := start(namespace, config)
		cnp := admin.create(ctx, names)
		wrong := admin.accepted(cnp, metav1.ConditionFalse)
		Expect(wrong.Reason).To(Equal(clusterstatus.ReasonPartiallyInvalid))
		Expect(wrong.Message).To(HavePrefix("spec.egress[0].to[0].domainNames: domain names are for rules that accept"))

		time.Sleep(1100 * time.Millisecond) // times are in seconds
		admin.change(ctx, cnp, all)
		right := admin.accepted(cnp, metav1.ConditionTrue)
		Expect(right.LastTransitionTime.Time).To(BeTemporally(">", wrong.LastTransitionTime.Time))

		time.Sleep(1100 * time.Millisecond)
		admin.change(ctx, cnp, func(spec *clusterv1beta1.ClusterNetworkPolicySpec) { spec.Priority = 2 })
		again := admin.accepted(cnp, metav1.ConditionTrue)
		Expect(again.LastTransitionTime).To(Equal(right.LastTransitionTime), "it has said True before")
		Eventually(writer.writes).WithTimeout(soon).Should(HaveLen(3), "one for each change of the policy")
	})

	It("says if no rule is enforced as it is written", func(ctx SpecContext) {
		start(namespace, config)
		cnp := admin.create(ctx, func(spec *clusterv1beta1.ClusterNetworkPolicySpec) {
			spec.Subject.Namespaces.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like", Values: []string{"b"}}}
		})
		got := admin.accepted(cnp, metav1.ConditionFalse)
		Expect(got.Reason).To(Equal(clusterstatus.ReasonInvalid))
		Expect(got.Message).To(And(HavePrefix("spec.subject.namespaces: "), ContainSubstring("Like")))
	})

	It("says how many more fields there are than it has room for", func(ctx SpecContext) {
		start(namespace, config)
		cnp := admin.create(ctx, func(spec *clusterv1beta1.ClusterNetworkPolicySpec) {
			names(spec)
			peer := spec.Egress[0].To[0]
			for len(spec.Egress[0].To) < 25 {
				spec.Egress[0].To = append(spec.Egress[0].To, peer)
			}
			for len(spec.Egress) < 25 {
				spec.Egress = append(spec.Egress, spec.Egress[0])
			}
		})
		got := admin.accepted(cnp, metav1.ConditionFalse)
		Expect(len(got.Message)).To(And(BeNumerically(">", 32000), BeNumerically("<=", 32768)))
		Expect(got.Message).To(MatchRegexp(`; and \d+ more$`))
	})

	It("is not written if nothing has changed, nor after a restart", func(ctx SpecContext) {
		right, wrong := admin.create(ctx), admin.create(ctx, names)
		resync := 200 * time.Millisecond
		often := func(o *clusterstatus.Options) { o.Resync = &resync }
		first := start(namespace, config, often)
		admin.accepted(right, metav1.ConditionTrue)
		admin.accepted(wrong, metav1.ConditionFalse)
		Consistently(first.writes, 3*while).Should(HaveLen(2))

		right.Labels = map[string]string{"changed": "yes"}
		Expect(admin.Update(ctx, right)).To(Succeed())
		Consistently(first.writes, while).Should(HaveLen(2))
		first.stop()

		second := start(namespace, config, often)
		Eventually(second.said("Writing the status")).WithTimeout(soon).Should(HaveLen(1))
		Consistently(second.writes, 3*while).Should(BeEmpty())
		for _, cnp := range []*clusterv1beta1.ClusterNetworkPolicy{right, wrong} {
			version := cnp.ResourceVersion
			Expect(admin.Get(ctx, client.ObjectKeyFromObject(cnp), cnp)).To(Succeed())
			Expect(cnp.ResourceVersion).To(Equal(version))
		}
	})

	It("leaves the conditions of others", func(ctx SpecContext) {
		cnp := admin.create(ctx)
		theirs := metav1.Condition{Type: "Ready-In-Zone-a", Status: metav1.ConditionTrue, Reason: "Theirs", LastTransitionTime: metav1.Now()}
		meta.SetStatusCondition(&cnp.Status.Conditions, theirs)
		Expect(admin.Status().Update(ctx, cnp)).To(Succeed())
		start(namespace, config)
		admin.accepted(cnp, metav1.ConditionTrue)
		Expect(meta.IsStatusConditionTrue(cnp.Status.Conditions, theirs.Type)).To(BeTrue())

		admin.change(ctx, cnp, names)
		admin.accepted(cnp, metav1.ConditionFalse)
		Expect(meta.IsStatusConditionTrue(cnp.Status.Conditions, theirs.Type)).To(BeTrue())

		another := theirs
		another.Type = "Another"
		patch := client.MergeFromWithOptions(cnp.DeepCopy(), client.MergeFromWithOptimisticLock{})
		cnp.Status.Conditions = append(cnp.Status.Conditions, another)
		Expect(admin.Status().Patch(ctx, cnp, patch)).To(Succeed())
		admin.change(ctx, cnp, all)
		admin.accepted(cnp, metav1.ConditionTrue)
		Expect(cnp.Status.Conditions).To(HaveLen(3))
	})

	It("is not written if the policy has changed since it was read", func(ctx SpecContext) {
		cnp := admin.create(ctx)
		policies := toolscache.NewStore(toolscache.MetaNamespaceKeyFunc)
		read := func(cnp *clusterv1beta1.ClusterNetworkPolicy) {
			kept, err := clusterstatus.Keep(cnp.DeepCopy())
			Expect(err).NotTo(HaveOccurred())
			Expect(policies.Add(kept)).To(Succeed())
		}
		read(cnp)
		writes, err := client.New(config, client.Options{Scheme: admin.Scheme()})
		Expect(err).NotTo(HaveOccurred())
		reconciler := &clusterstatus.ClusterNetworkPolicyReconciler{Version: "v1beta1", Policies: policies, Client: writes, Log: GinkgoLogr}
		request := reconcile.Request{NamespacedName: client.ObjectKeyFromObject(cnp)}
		admin.change(ctx, cnp, names)
		Expect(reconciler.Reconcile(ctx, request)).To(BeZero())
		Expect(admin.condition(cnp, clusterstatus.ConditionAccepted)()).To(BeNil())

		read(cnp)
		Expect(reconciler.Reconcile(ctx, request)).To(BeZero())
		admin.accepted(cnp, metav1.ConditionFalse)
		written := cnp.ResourceVersion
		Expect(reconciler.Reconcile(ctx, request)).To(HaveField("RequeueAfter", BeNumerically(">", 0)), "the cache does not show it yet")
		before := cnp.DeepCopy()
		before.Status = clusterv1beta1.ClusterNetworkPolicyStatus{}
		Expect(admin.Delete(ctx, cnp)).To(Succeed())
		cnp.ResourceVersion, cnp.UID = "", ""
		Expect(admin.Create(ctx, cnp)).To(Succeed())
		Expect(cnp.ResourceVersion).NotTo(Equal(written))
		before.UID = "of another" // than was written
		read(before)
		Expect(reconciler.Reconcile(ctx, request)).To(BeZero())
		Expect(admin.condition(cnp, clusterstatus.ConditionAccepted)()).To(BeNil(), "it was read of the one before")
	})

	It("is written again if somebody takes it away or changes it, but not all the time", func(ctx SpecContext) {
		cnp := admin.create(ctx)
		writer := start(namespace, config)
		admin.accepted(cnp, metav1.ConditionTrue)
		change := func() {
			Expect(admin.Get(ctx, client.ObjectKeyFromObject(cnp), cnp)).To(Succeed())
			meta.SetStatusCondition(&cnp.Status.Conditions, metav1.Condition{Type: clusterstatus.ConditionAccepted, Status: metav1.ConditionFalse, Reason: "Theirs"})
			Expect(client.IgnoreNotFound(admin.Status().Update(ctx, cnp))).To(Or(Succeed(), MatchError(ContainSubstring("modified"))))
		}
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			change()
		}
		Expect(len(writer.writes())).To(BeNumerically("<=", 2))
		admin.accepted(cnp, metav1.ConditionTrue)
	})
})

var _ = Describe("Of two writers", func() {
	var (
		namespace     string
		first, second *running
		cnp           *clusterv1beta1.ClusterNetworkPolicy
	)
	BeforeEach(func(ctx SpecContext) {
		install(ctx, "v1beta1", "v1alpha2")
		var config *rest.Config
		namespace, config = account(ctx)
		cnp = admin.create(ctx)
		first = start(namespace, config)
		admin.accepted(cnp, metav1.ConditionTrue)
		second = start(namespace, config)
		Eventually(func() []string { return second.of(clusterstatus.LeaseName) }).WithTimeout(soon).ShouldNot(BeEmpty())
	})

	AfterEach(func(ctx SpecContext) {
		admin.change(ctx, cnp, names)
		admin.accepted(cnp, metav1.ConditionFalse)
		Eventually(second.writes).WithTimeout(soon).Should(HaveLen(1))
		Expect(second.said("Writing the status")()).To(HaveLen(1))
	})

	It("one writes, and the other takes over when it stops", func(ctx SpecContext) {
		admin.change(ctx, cnp, func(spec *clusterv1beta1.ClusterNetworkPolicySpec) { spec.Priority = 2 })
		admin.accepted(cnp, metav1.ConditionTrue)
		Eventually(first.writes).WithTimeout(soon).Should(HaveLen(2))
		Expect(second.of(clusterv1beta1.GroupName)).To(BeEmpty(), "it asks for no policies meanwhile")
		first.stop()
		Expect(first.err).NotTo(HaveOccurred())
	})

	It("the other takes over when the one is cut off, which then ends", func(ctx SpecContext) {
		first.cut.Store(true)
		Eventually(first.ended, 2*soon).Should(BeClosed())
		Expect(first.err).To(MatchError(ContainSubstring("Lease " + namespace + "/" + clusterstatus.LeaseName)))
		lease := &coordinationv1.Lease{}
		holder := func() (string, error) {
			err := admin.Get(ctx, client.ObjectKey{Namespace: namespace, Name: clusterstatus.LeaseName}, lease)
			return *lease.Spec.HolderIdentity, err
		}
		before, err := holder()
		Expect(err).NotTo(HaveOccurred())
		Eventually(holder, 2*soon, often).ShouldNot(Equal(before))
	})
})

var _ = Describe("The kind", func() {
	It("may be missing, come, change its versions, go, and come back", func(ctx SpecContext) {
		remove(ctx)
		namespace, config := account(ctx)
		writer := start(namespace, config)
		Eventually(writer.said("has no ClusterNetworkPolicies")).WithTimeout(soon).Should(HaveLen(1))
		Consistently(writer.said("ClusterNetworkPolicies"), 2*while).Should(HaveLen(1), "it says that once")

		install(ctx, "v1alpha2")
		old := as("v1alpha2")
		early := old.create(ctx)
		old.accepted(early, metav1.ConditionTrue)
		Expect(writer.said("Writing the status")()).To(ConsistOf(ContainSubstring("v1alpha2")))

		install(ctx, "v1beta1", "v1alpha2")
		Eventually(writer.said("Writing the status")).WithTimeout(soon).Should(HaveLen(2))
		Expect(writer.said("Writing the status")()[1]).To(ContainSubstring("v1beta1"))
		late := admin.create(ctx, names)
		admin.accepted(late, metav1.ConditionFalse)
		before := admin.accepted(early, metav1.ConditionTrue)
		admin.change(ctx, early, func(spec *clusterv1beta1.ClusterNetworkPolicySpec) { spec.Priority = 2 })
		Expect(admin.accepted(early, metav1.ConditionTrue).LastTransitionTime).To(Equal(before.LastTransitionTime))

		install(ctx, "v1beta1")
		Consistently(writer.said("Writing the status"), while).Should(HaveLen(2), "what it does not use may go")

		remove(ctx)
		Eventually(writer.said("has no ClusterNetworkPolicies")).WithTimeout(soon).Should(HaveLen(2))
		quiet := len(writer.of("clusternetworkpolicies"))
		Consistently(func() []string { return writer.of("clusternetworkpolicies") }, while).Should(HaveLen(quiet), "it asks for no policies meanwhile")

		install(ctx, "v1beta1")
		admin.accepted(admin.create(ctx), metav1.ConditionTrue)
		Expect(writer.said("error")()).To(BeEmpty())
	})
})

var _ = Describe("The definition", func() {
	It("may come to have more fields, by which the condition is also of policies that were written while the API server took that up", func(ctx SpecContext) {
		DeferCleanup(remove)
		channel(ctx, "standard")
		namespace, config := account(ctx)
		writer := start(namespace, config)
		admin.accepted(admin.create(ctx), metav1.ConditionTrue) // which takes two seconds if the definition is new

		created := make(chan []*clusterv1beta1.ClusterNetworkPolicy)
		go func() {
			defer GinkgoRecover()
			var all []*clusterv1beta1.ClusterNetworkPolicy
			defer func() { created <- all }()
			for began := time.Now(); time.Since(began) < 5*time.Second; time.Sleep(often) {
				// The API server refuses it as long as it goes by the old definition, which makes a peer of it
				// that has no field.
				if cnp := policyOf(nodes); admin.Create(ctx, cnp) == nil {
					all = append(all, cnp)
				}
			}
		}()
		channel(ctx, "experimental")
		all := <-created
		DeferCleanup(func(ctx SpecContext) {
			for _, cnp := range all {
				Expect(admin.Delete(ctx, cnp)).To(Succeed())
			}
		})
		Expect(len(all)).To(BeNumerically(">", 10))
		for _, cnp := range all {
			admin.accepted(cnp, metav1.ConditionTrue)
		}

		// Nobody else writes them from now on, and what the API server says of them changes.
		channel(ctx, "standard")
		Expect(admin.accepted(all[0], metav1.ConditionFalse).Message).To(HavePrefix("spec.egress[0].to[0]: "))
		Expect(writer.said("Writing the status")()).To(HaveLen(1))
		Expect(writer.said("error")()).To(BeEmpty())
	})
})

var _ = Describe("Readiness", func() {
	It("says why the policies are not known", func(ctx SpecContext) {
		install(ctx, "v1beta1")
		namespace, config := account(ctx)
		role := &rbacv1.ClusterRole{}
		Expect(admin.Get(ctx, client.ObjectKey{Name: namespace}, role)).To(Succeed())
		Expect(admin.Delete(ctx, role)).To(Succeed())
		address := freeAddress()
		start(namespace, config, func(o *clusterstatus.Options) { o.HealthAddress = address })
		Eventually(get("http://" + address + "/readyz")).WithTimeout(soon).Should(HavePrefix("500 the ClusterNetworkPolicies have not been read yet"))
		Expect(get("http://" + address + "/healthz")()).To(HavePrefix("200 ok"))
		role.ResourceVersion = ""
		Expect(admin.Create(ctx, role)).To(Succeed())
		Eventually(get("http://" + address + "/readyz")).WithTimeout(2 * soon).Should(HavePrefix("200 ok"))
	})

	It("says why the API server could not be asked", func(ctx SpecContext) {
		install(ctx, "v1beta1")
		namespace, config := account(ctx)
		address := freeAddress()
		writer := start(namespace, config, func(o *clusterstatus.Options) { o.HealthAddress = address })
		Eventually(writer.said("Writing the status")).WithTimeout(soon).Should(HaveLen(1))
		Eventually(get("http://" + address + "/readyz")).WithTimeout(soon).Should(HavePrefix("200 ok"))
		writer.cut.Store(true)
		Eventually(get("http://" + address + "/readyz")).WithTimeout(soon).Should(And(HavePrefix("500 asking the API server whether it has"), ContainSubstring("the network is cut")))
		writer.cut.Store(false)
		Eventually(get("http://" + address + "/readyz")).WithTimeout(soon).Should(HavePrefix("200 ok"))
		Expect(writer.said("Cannot find out")()).To(HaveLen(1))
	})
})

// freeAddress is an address of this machine that nobody listens on.
func freeAddress() string {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	defer listener.Close()
	return listener.Addr().String()
}

// get asks over HTTP, and returns the code and the answer.
func get(url string) func() (string, error) {
	return func() (string, error) {
		response, err := http.Get(url)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return fmt.Sprintf("%d %s", response.StatusCode, body), err
	}
}
