package commands_test

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// completes: each part of a target is offered as a shell asks for it.
func completes(t *testing.T, api *kubernetes.Clientset, call func(...string) (int, string, string)) {
	labels := map[string]string{"app": "x"}
	if _, err := api.AppsV1().Deployments("shop").Create(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "shopfront"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, offers string }{
		{"explain s", "shop/ sts/"},
		{"explain shop/web s", "shop/ sts/ svc/"},
		{"-n shop explain d", "db default/ deploy/ ds/"},
		{"explain shop/", "shop/db shop/web"},
		{"explain pod/sh", "pod/shop/"},
		{"explain node/", "node/node-1"},
		{"explain deploy/sh", "deploy/shop/"},
		{"-n shop explain deploy/sh", "deploy/shop/ deploy/shopfront"},
		{"explain deploy/shop/", "deploy/shop/shopfront"},
		{"explain shop/web svc/shop/", "svc/shop/db"},
		{"explain shop/web svc/shop/db:", "svc/shop/db:5432 svc/shop/db:80 svc/shop/db:http svc/shop/db:sql"},
		{"-n shop explain shop/web svc/db:s", "svc/db:sql"},
		{"explain shop/web svc/shop/none:", ""},
		{"explain shop/web shop/db x", ""},
		{"explain shop/web ns/", "ns/default ns/kube-node-lease ns/kube-public ns/kube-system ns/shop"},
		{"reach n", "node/ ns/"},
		{"reach ns/sh", "ns/shop"},
		{"reach s", "shop/ sts/"},
		{"reach deploy/shop/", "deploy/shop/shopfront"},
		{"reach shop/web s", ""},
		{"reach --output ", "wide name json yaml dot svg"},
		{"diff --output ", "json yaml"},
		{"explain --namespace sh", "shop"},
		{"explain --output ", "json yaml wide name"},
	} {
		args := strings.Split(c.args, " ")
		code, out, errOut := call(append([]string{"__complete"}, args...)...)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		got := strings.Join(lines[:len(lines)-1], " ")
		if code != 0 || got != c.offers {
			t.Errorf("%q: exit code %d, offers %q instead of %q\n%s", c.args, code, got, c.offers, errOut)
		}
	}
	// A cluster that does not answer offers nothing, soon.
	if code, out, _ := call("__complete", "explain", "--server", "http://127.0.0.1:1", "shop/"); code != 0 || !strings.HasPrefix(out, ":") {
		t.Errorf("without a cluster: exit code %d, %q", code, out)
	}
}
