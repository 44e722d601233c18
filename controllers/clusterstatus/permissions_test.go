package clusterstatus_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var _ = Describe("Permissions", func() {
	It("are in config/status exactly those that are used", func(ctx SpecContext) {
		install(ctx, "v1beta1", "v1alpha2")
		namespace, config := account(ctx)
		writer := start(namespace, config)
		writer.listsOnly.Store(true)
		cnp := admin.create(ctx)
		admin.accepted(cnp, metav1.ConditionTrue)
		admin.change(ctx, cnp, names)
		admin.accepted(cnp, metav1.ConditionFalse)
		Eventually(func() []string { return writer.of("PUT ") }).WithTimeout(soon).ShouldNot(BeEmpty()) // the Lease, renewed
		writer.stop()
		Expect(writer.of(" 403")).To(BeEmpty())
		Expect(writer.used()).To(ConsistOf(granted()))
	})
})

// used are the permissions that its requests have used, one line for each.
func (r *requests) used() (all []string) {
	GinkgoHelper()
	for _, made := range r.of("") {
		parts := strings.Fields(made)
		at, err := url.Parse(parts[1])
		Expect(err).NotTo(HaveOccurred())
		path := strings.Split(strings.Trim(at.Path, "/"), "/")
		if len(path) < 4 { // which kinds there are, everybody may ask
			continue
		}
		Expect(path[0]).To(Equal("apis"), made)
		group, path := path[1], path[3:]
		if path[0] == "namespaces" {
			path = path[2:]
		}
		name := ""
		if len(path) > 1 {
			name = path[1]
		}
		if len(path) > 2 { // of which any may be written
			path[0], name = path[0]+"/"+path[2], ""
		}
		verb := map[string]string{"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[parts[0]]
		switch {
		case at.Query().Has("watch"):
			verb = "watch"
		case verb == "get" && name == "":
			verb = "list"
		}
		all = append(all, permission(verb, group, path[0], name))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// granted are those that config/status grants.
func granted() (all []string) {
	GinkgoHelper()
	for _, object := range deployed() {
		var rules []rbacv1.PolicyRule
		switch object := object.(type) {
		case *rbacv1.ClusterRole:
			rules = object.Rules
		case *rbacv1.Role:
			rules = object.Rules
		}
		for _, rule := range rules {
			Expect(rule.NonResourceURLs).To(BeEmpty())
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						all = append(all, permission(verb, group, resource, strings.Join(rule.ResourceNames, " ")))
					}
				}
			}
		}
	}
	Expect(strings.Join(all, "\n")).NotTo(ContainSubstring("*"))
	return all
}

// permission is one, of a name or of any.
func permission(verb, group, resource, name string) string {
	return fmt.Sprintf("%s %q %s %s", verb, group, resource, name)
}
