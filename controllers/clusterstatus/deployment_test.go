package clusterstatus_test

import (
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

var _ = Describe("The Deployment", func() {
	It("has pods that Pod Security's strictest standard admits, as the account of config/status", func(ctx SpecContext) {
		text, err := os.ReadFile(filepath.Join("..", "..", "config", "status", "deployment.yaml"))
		Expect(err).NotTo(HaveOccurred())
		deployment := &appsv1.Deployment{}
		Expect(yaml.UnmarshalStrict(text, deployment)).To(Succeed())
		namespace, _ := account(ctx)
		ns := &corev1.Namespace{}
		Expect(admin.Get(ctx, client.ObjectKey{Name: namespace}, ns)).To(Succeed())
		ns.Labels["pod-security.kubernetes.io/enforce"] = "restricted"
		Expect(admin.Update(ctx, ns)).To(Succeed())

		deployment.Namespace = namespace
		Expect(admin.Create(ctx, deployment)).To(Succeed())
		pod := func() *corev1.Pod {
			template := deployment.Spec.Template.DeepCopy()
			return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: "status-writer-"}, Spec: template.Spec}
		}
		Expect(admin.Create(ctx, pod())).To(Succeed())
		open := pod()
		open.Spec.HostNetwork = true
		Expect(admin.Create(ctx, open)).To(MatchError(apierrors.IsForbidden, "forbidden"), "the namespace enforces that standard")
	})
})
