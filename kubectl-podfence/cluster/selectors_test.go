package cluster_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/kubectl-podfence/cluster"
)

// TestSelectors: what workloads select their pods by is read of all that may be listed, and what may not is said.
func TestSelectors(t *testing.T) {
	by := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	meta := metav1.ObjectMeta{Namespace: "shop", Name: "web"}
	lists := map[string]any{
		"/apis/apps/v1/deployments": appsv1.DeploymentList{TypeMeta: metav1.TypeMeta{Kind: "DeploymentList", APIVersion: "apps/v1"}, Items: []appsv1.Deployment{
			{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: by}}, {ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "without"}},
		}},
		"/apis/apps/v1/namespaces/shop/statefulsets": appsv1.StatefulSetList{TypeMeta: metav1.TypeMeta{Kind: "StatefulSetList", APIVersion: "apps/v1"}, Items: []appsv1.StatefulSet{
			{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Selector: by}},
		}},
	}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		answer, has := lists[r.URL.Path]
		if !has {
			w.WriteHeader(http.StatusForbidden)
			answer = metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: metav1.StatusReasonForbidden, Code: http.StatusForbidden}
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	defer api.Close()
	all, missing, err := cluster.Selectors(t.Context(), &rest.Config{Host: api.URL}, []string{"shop"})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for o, by := range all {
		got[fmt.Sprint(o)] = metav1.FormatLabelSelector(by)
	}
	want := map[string]string{
		fmt.Sprint(explain.Object{Kind: "Deployment", Namespace: "shop", Name: "web"}):  "app=web",
		fmt.Sprint(explain.Object{Kind: "StatefulSet", Namespace: "shop", Name: "web"}): "app=web",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v instead of %v", got, want)
	}
	if len(missing) != 1 || !strings.HasPrefix(missing[0], "You may not list daemonsets.apps: ") {
		t.Errorf("missing: %q", missing)
	}
}
