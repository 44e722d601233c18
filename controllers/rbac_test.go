package controllers_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var _ = Describe("Permissions", func() {
	It("are in config/rbac exactly those that the code's markers name", func() {
		role, err := agentRole()
		Expect(err).NotTo(HaveOccurred())
		var deployed []string
		for _, rule := range role.Rules {
			Expect(rule.ResourceNames).To(BeEmpty())
			Expect(rule.NonResourceURLs).To(BeEmpty())
			deployed = append(deployed, permissions(rule.APIGroups, rule.Resources, rule.Verbs)...)
		}
		marked := markedPermissions()
		Expect(marked).NotTo(BeEmpty())
		Expect(deployed).To(ConsistOf(marked))
		Expect(strings.Join(deployed, "\n")).NotTo(ContainSubstring("*"))
	})

	It("are enforced by the API server that these specs use", func(ctx SpecContext) {
		agents, err := client.New(agentUser, client.Options{})
		Expect(err).NotTo(HaveOccurred())
		Expect(agents.List(ctx, &corev1.PodList{})).To(Succeed())
		Expect(agents.List(ctx, &corev1.SecretList{})).To(MatchError(apierrors.IsForbidden, "forbidden"))
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "not-the-agents-to-make"}}
		Expect(agents.Create(ctx, namespace)).To(MatchError(apierrors.IsForbidden, "forbidden"))
	})
})

// permissions spells a rule out, one line for each thing that it permits.
func permissions(groups, resources, verbs []string) (all []string) {
	for _, group := range groups {
		for _, resource := range resources {
			for _, verb := range verbs {
				all = append(all, fmt.Sprintf("%s %q %s", verb, group, resource))
			}
		}
	}
	return all
}

var marker = regexp.MustCompile(`(?m)^\s*//\s*\+kubebuilder:rbac:(\S+)$`)

// markedPermissions are those of the markers in this package and those below.
func markedPermissions() (all []string) {
	GinkgoHelper()
	files, err := filepath.Glob("*.go")
	below, errBelow := filepath.Glob("*/*.go")
	files, err = append(files, below...), errors.Join(err, errBelow)
	Expect(err).NotTo(HaveOccurred())
	for _, file := range files {
		text, err := os.ReadFile(file)
		Expect(err).NotTo(HaveOccurred())
		for _, match := range marker.FindAllStringSubmatch(string(text), -1) {
			parts := map[string][]string{}
			for _, part := range strings.Split(match[1], ",") {
				key, value, _ := strings.Cut(part, "=")
				parts[key] = strings.Split(strings.Trim(value, `"`), ";")
			}
			Expect(parts).To(And(HaveLen(3), HaveKey("groups"), HaveKey("resources"), HaveKey("verbs")), file)
			all = append(all, permissions(parts["groups"], parts["resources"], parts["verbs"])...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
