package clusterstatus_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	clusterv1beta1 "sigs.k8s.io/network-policy-api/apis/v1beta1"

	"github.com/podfence/podfence/controllers/clusterstatus"
	"github.com/podfence/podfence/test/apiserver"
)

// How long something may take to happen, on a machine that is busy with other things; how often to
// look; and how long to look at what must not happen.
const (
	soon  = 30 * time.Second
	often = 20 * time.Millisecond
	while = time.Second
)

var (
	environment *envtest.Environment
	// admin may do everything; it plays the users, and other writers of conditions.
	admin user
)

// user is a client that has ClusterNetworkPolicies in one version.
type user struct{ client.Client }

// as returns a user of a version.
func as(version string) user {
	GinkgoHelper()
	scheme := runtime.NewScheme()
	group := schema.GroupVersion{Group: clusterv1beta1.GroupName, Version: version}
	Expect(clientgoscheme.AddToScheme(scheme)).To(Succeed())
	Expect(apiextensionsv1.AddToScheme(scheme)).To(Succeed())
	scheme.AddKnownTypes(group, &clusterv1beta1.ClusterNetworkPolicy{}, &clusterv1beta1.ClusterNetworkPolicyList{})
	metav1.AddToGroupVersion(scheme, group)
	c, err := client.New(environment.Config, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	return user{c}
}

func TestClusterStatus(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Status of ClusterNetworkPolicies")
}

var _ = BeforeSuite(func() {
	ctrl.SetLogger(GinkgoLogr)
	assets, err := apiserver.Assets()
	Expect(err).NotTo(HaveOccurred())
	environment = &envtest.Environment{BinaryAssetsDirectory: assets, ControlPlaneStartTimeout: 2 * time.Minute}
	config, err := environment.Start()
	DeferCleanup(func() error { return environment.Stop() })
	Expect(err).NotTo(HaveOccurred())
	config.QPS, config.WarningHandler = -1, rest.NoWarnings{}
	admin = as("v1beta1")
})

// definition is the kind's CustomResourceDefinition, of which these versions are served.
func definition(served ...string) *apiextensionsv1.CustomResourceDefinition {
	GinkgoHelper()
	crd, err := apiserver.ClusterNetworkPolicies(served...)
	Expect(err).NotTo(HaveOccurred())
	return crd
}

// install has the API server have the kind in these versions, whatever it had before.
func install(ctx context.Context, served ...string) {
	GinkgoHelper()
	want := definition(served...)
	Eventually(func() error {
		has := &apiextensionsv1.CustomResourceDefinition{}
		err := admin.Get(ctx, client.ObjectKeyFromObject(want), has)
		if apierrors.IsNotFound(err) {
			return admin.Create(ctx, want.DeepCopy())
		}
		if err != nil || has.DeletionTimestamp != nil {
			return errors.Join(err, errors.New("the definition of before is still there"))
		}
		apiserver.ServeVersions(has, served...)
		return admin.Update(ctx, has)
	}, soon, often).Should(Succeed())
	Eventually(func() error {
		return admin.List(ctx, listOf(served[0]))
	}, soon, often).Should(Succeed())
}

// channel has it have the kind as a channel of network-policy-api defines it, whatever it had before.
func channel(ctx context.Context, name string) {
	GinkgoHelper()
	published, err := apiserver.ClusterNetworkPoliciesOf(name)
	Expect(err).NotTo(HaveOccurred())
	install(ctx, "v1beta1", "v1alpha2")
	has := &apiextensionsv1.CustomResourceDefinition{}
	Eventually(func() error {
		if err := admin.Get(ctx, client.ObjectKeyFromObject(published), has); err != nil {
			return err
		}
		has.Annotations, has.Spec.Versions = published.Annotations, published.Spec.Versions
		return admin.Update(ctx, has)
	}, soon, often).Should(Succeed())
}

// remove has it have none.
func remove(ctx context.Context) {
	GinkgoHelper()
	Expect(client.IgnoreNotFound(admin.Delete(ctx, definition()))).To(Succeed())
	Eventually(func() bool {
		return apierrors.IsNotFound(admin.Get(ctx, client.ObjectKeyFromObject(definition()), &apiextensionsv1.CustomResourceDefinition{}))
	}, soon, often).Should(BeTrue())
}

// listOf is a list of policies of a version, of whatever type.
func listOf(version string) *metav1.PartialObjectMetadataList {
	list := &metav1.PartialObjectMetadataList{}
	list.APIVersion, list.Kind = clusterv1beta1.GroupName+"/"+version, "ClusterNetworkPolicyList"
	return list
}

// account logs in as the ServiceAccount of config/status in a new namespace, with what is granted
// there and nothing else, by a token as kubelet asks for it.
func account(ctx context.Context) (namespace string, config *rest.Config) {
	GinkgoHelper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "status-"}}
	Expect(admin.Create(ctx, ns)).To(Succeed())
	namespace = ns.Name
	var login *corev1.ServiceAccount
	for _, object := range deployed() {
		switch object := object.(type) {
		case *corev1.ServiceAccount:
			login = object
		case *rbacv1.ClusterRole:
			object.Name = namespace
		case *rbacv1.ClusterRoleBinding:
			object.Name, object.RoleRef.Name, object.Subjects[0].Namespace = namespace, namespace, namespace
		case *rbacv1.RoleBinding:
			object.Subjects[0].Namespace = namespace
		}
		if object.GetNamespace() != "" {
			object.SetNamespace(namespace)
		}
		Expect(admin.Create(ctx, object)).To(Succeed())
	}
	request := &authenticationv1.TokenRequest{}
	Expect(admin.SubResource("token").Create(ctx, login, request)).To(Succeed())
	config = rest.AnonymousClientConfig(environment.Config)
	config.BearerToken = request.Status.Token
	return namespace, config
}

// deployed are the account and the rights that config/status installs.
func deployed() (objects []client.Object) {
	GinkgoHelper()
	decoder := clientgoscheme.Codecs.UniversalDeserializer()
	for _, name := range []string{"service_account.yaml", "role.yaml", "role_binding.yaml"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "config", "status", name))
		Expect(err).NotTo(HaveOccurred())
		for documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text))); ; {
			document, err := documents.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			Expect(err).NotTo(HaveOccurred())
			object, _, err := decoder.Decode(document, nil, nil)
			Expect(err).NotTo(HaveOccurred())
			objects = append(objects, object.(client.Object))
		}
	}
	Expect(objects).To(HaveLen(5))
	return objects
}

// running is a writer that runs.
type running struct {
	*requests
	stop func()
	// ended is closed when Start has returned, with err.
	ended chan struct{}
	err   error

	mu    sync.Mutex
	lines []string
}

// start starts a writer, which stops with the spec at the latest.
func start(namespace string, config *rest.Config, options ...func(*clusterstatus.Options)) *running {
	GinkgoHelper()
	r := &running{requests: &requests{}, ended: make(chan struct{})}
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return roundTripper{r.requests, next} })
	o := clusterstatus.Options{
		API: config, Namespace: namespace, MetricsAddress: "0", HealthAddress: "0", Poll: 200 * time.Millisecond,
		Log: funcr.New(r.log, funcr.Options{}),
	}
	for _, option := range options {
		option(&o)
	}
	w, err := clusterstatus.New(o)
	Expect(err).NotTo(HaveOccurred())
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(r.ended)
		r.err = w.Start(ctx)
	}()
	r.stop = func() {
		GinkgoHelper()
		cancel()
		Eventually(r.ended, soon).Should(BeClosed())
	}
	DeferCleanup(r.stop)
	return r
}

func (r *running) log(prefix, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, strings.TrimSpace(prefix+" "+text))
}

// said are the lines of its log that have a text.
func (r *running) said(text string) func() []string {
	return func() (some []string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, line := range r.lines {
			if strings.Contains(line, text) {
				some = append(some, line)
			}
		}
		return some
	}
}

// requests are what a writer has asked the API server.
type requests struct {
	cut atomic.Bool // nothing gets through any more
	// listsOnly fails what newer API servers can do, to send what there is at the start of a watch.
	listsOnly atomic.Bool

	mu   sync.Mutex
	made []string
}

type roundTripper struct {
	*requests
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (r roundTripper) RoundTrip(request *http.Request) (*http.Response, error) {
	if r.cut.Load() {
		return nil, errors.New("the network is cut")
	}
	if r.listsOnly.Load() && request.URL.Query().Has("sendInitialEvents") {
		return nil, errors.New("there are lists only")
	}
	response, err := r.next.RoundTrip(request)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.made = append(r.made, fmt.Sprintf("%s %s %d", request.Method, request.URL.RequestURI(), response.StatusCode))
	}
	return response, err
}

// of are the requests that have a text.
func (r *requests) of(text string) (some []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, one := range r.made {
		if strings.Contains(one, text) {
			some = append(some, one)
		}
	}
	return some
}

// writes are those that write a status.
func (r *requests) writes() []string { return r.of("PATCH ") }

// condition is what the API server has of a policy's condition of a type; nil: nothing.
func (u user) condition(cnp *clusterv1beta1.ClusterNetworkPolicy, kind string) func() (*metav1.Condition, error) {
	return func() (*metav1.Condition, error) {
		err := u.Get(context.Background(), client.ObjectKeyFromObject(cnp), cnp)
		return meta.FindStatusCondition(cnp.Status.Conditions, kind), err
	}
}

// accepted awaits what the condition Accepted of the policy's generation says.
func (u user) accepted(cnp *clusterv1beta1.ClusterNetworkPolicy, status metav1.ConditionStatus) *metav1.Condition {
	GinkgoHelper()
	var found *metav1.Condition
	Eventually(func() (string, error) {
		var err error
		found, err = u.condition(cnp, clusterstatus.ConditionAccepted)()
		if found == nil || err != nil {
			return "none", err
		}
		return fmt.Sprintf("%s of %d", found.Status, found.ObservedGeneration), nil
	}, soon, often).Should(WithTransform(func(got string) bool { return got == fmt.Sprintf("%s of %d", status, cnp.Generation) }, BeTrue()))
	return found
}

// create makes a policy, which goes with the spec.
func (u user) create(ctx context.Context, change ...func(*clusterv1beta1.ClusterNetworkPolicySpec)) *clusterv1beta1.ClusterNetworkPolicy {
	GinkgoHelper()
	cnp := policyOf(change...)
	Expect(u.Create(ctx, cnp)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) {
		err := u.Delete(ctx, cnp)
		Expect(client.IgnoreNotFound(err)).To(Or(Succeed(), MatchError(meta.IsNoMatchError, "no such kind")))
	})
	return cnp
}

// policyOf is a policy that accepts what goes to any namespace, but for what is changed.
func policyOf(change ...func(*clusterv1beta1.ClusterNetworkPolicySpec)) *clusterv1beta1.ClusterNetworkPolicy {
	cnp := &clusterv1beta1.ClusterNetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "policy-"},
		Spec: clusterv1beta1.ClusterNetworkPolicySpec{
			Tier: clusterv1beta1.AdminTier, Priority: 1, Subject: clusterv1beta1.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}},
			Egress: []clusterv1beta1.ClusterNetworkPolicyEgressRule{{
				Action: clusterv1beta1.ClusterNetworkPolicyRuleActionAccept,
				To:     []clusterv1beta1.ClusterNetworkPolicyEgressPeer{{Namespaces: &metav1.LabelSelector{}}},
			}},
		},
	}
	for _, change := range change {
		change(&cnp.Spec)
	}
	return cnp
}

// change changes a policy's specification.
func (u user) change(ctx context.Context, cnp *clusterv1beta1.ClusterNetworkPolicy, how func(*clusterv1beta1.ClusterNetworkPolicySpec)) {
	GinkgoHelper()
	Eventually(func() error {
		if err := u.Get(ctx, client.ObjectKeyFromObject(cnp), cnp); err != nil {
			return err
		}
		how(&cnp.Spec)
		return u.Update(ctx, cnp)
	}, soon, often).Should(Succeed())
}

// names has the first rule deny hosts by their domain, which podfence does not enforce.
func names(spec *clusterv1beta1.ClusterNetworkPolicySpec) {
	spec.Egress[0].Action = clusterv1beta1.ClusterNetworkPolicyRuleActionDeny
	spec.Egress[0].To = []clusterv1beta1.ClusterNetworkPolicyEgressPeer{{DomainNames: []clusterv1beta1.DomainName{"*.example.com"}}}
}

// nodes has it name all nodes, as only the experimental channel can.
func nodes(spec *clusterv1beta1.ClusterNetworkPolicySpec) {
	spec.Egress[0].To = []clusterv1beta1.ClusterNetworkPolicyEgressPeer{{Nodes: &metav1.LabelSelector{}}}
}

// all has it name all namespaces again.
func all(spec *clusterv1beta1.ClusterNetworkPolicySpec) {
	spec.Egress[0].Action = clusterv1beta1.ClusterNetworkPolicyRuleActionAccept
	spec.Egress[0].To = []clusterv1beta1.ClusterNetworkPolicyEgressPeer{{Namespaces: &metav1.LabelSelector{}}}
}
