package controllers_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/controllers"
	"github.com/podfence/podfence/test/apiserver"
)

// How long something may take to happen, on a machine that is busy with other
// things; how often to look; and how long to look at what must not happen.
const (
	soon  = 30 * time.Second
	often = 20 * time.Millisecond
	while = 400 * time.Millisecond
)

// The API server that all specs share. Each works in namespaces of its own.
var (
	environment *envtest.Environment
	// admin may do everything; it plays kubelet, scheduler and users.
	admin client.Client
	// agentUser is what agents log in as: it has config/rbac's ClusterRole and
	// nothing else, so a permission that is missing there fails every spec.
	agentUser *rest.Config
)

func TestControllers(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Controllers")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	ctrl.SetLogger(GinkgoLogr)
	controllers.LookEvery(time.Second)
	assets, err := apiserver.Assets()
	Expect(err).NotTo(HaveOccurred())
	environment = &envtest.Environment{BinaryAssetsDirectory: assets, ControlPlaneStartTimeout: 2 * time.Minute, CRDDirectoryPaths: []string{filepath.Join("..", "config", "crd")}}
	config, err := environment.Start()
	DeferCleanup(func() error { return environment.Stop() })
	Expect(err).NotTo(HaveOccurred())
	admin, err = client.New(config, client.Options{Scheme: schemeWithOwn()})
	Expect(err).NotTo(HaveOccurred())
	agentUser = addAgentUser(ctx)
})

// addAgentUser makes a user and gives it the role that is deployed.
func addAgentUser(ctx SpecContext) *rest.Config {
	const name = "podfence-agent"
	role, err := agentRole()
	Expect(err).NotTo(HaveOccurred())
	role.Name = name
	Expect(admin.Create(ctx, role)).To(Succeed())
	binding := &rbacv1.ClusterRoleBinding{
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
	}
	binding.Name = name
	Expect(admin.Create(ctx, binding)).To(Succeed())
	user, err := environment.AddUser(envtest.User{Name: name}, nil)
	Expect(err).NotTo(HaveOccurred())
	return user.Config()
}

// agentRole reads the ClusterRole that is deployed.
func agentRole() (*rbacv1.ClusterRole, error) {
	text, err := os.ReadFile(filepath.Join("..", "config", "rbac", "role.yaml"))
	if err != nil {
		return nil, err
	}
	role := &rbacv1.ClusterRole{}
	if err := yaml.UnmarshalStrict(text, role); err != nil {
		return nil, err
	}
	if role.Kind != "ClusterRole" {
		return nil, errors.New("config/rbac/role.yaml is a " + role.Kind + ", not a ClusterRole")
	}
	return role, nil
}
