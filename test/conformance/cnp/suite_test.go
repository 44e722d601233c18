//go:build conformance

package cnp

import (
	"context"
	"flag"
	"regexp"
	"slices"
	"testing"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	k8sclient "k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"
	api "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/network-policy-api/conformance/tests"
	"sigs.k8s.io/network-policy-api/conformance/utils/flags"
	"sigs.k8s.io/network-policy-api/conformance/utils/suite"
	"sigs.k8s.io/network-policy-api/pkg/consts"

	"github.com/podfence/podfence/test/conformance/cnp/kubernetes"
	withoutsctp "github.com/podfence/podfence/test/conformance/cnp/tests"
)

// The suite's own flags say whom the report is about; these say what to run, and where to
// put what has come of it.
var (
	channel = flag.String("channel", "standard", "the channel of the CustomResourceDefinition that is installed")
	focus   = flag.String("focus", "", "an expression for the names of the tests to run; empty: all")
	out     = flag.String("out", "", "the folder for the report")
)

// TestConformance is the suite's TestConformanceProfiles, with what is told in doc.go.
func TestConformance(t *testing.T) {
	restConfig, err := config.GetConfig()
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(restConfig, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	clientSet, err := k8sclient.NewForConfig(restConfig)
	if err != nil {
		t.Fatal(err)
	}
	if err := api.Install(c.Scheme()); err != nil {
		t.Fatal(err)
	}
	if err := apiextensions.AddToScheme(c.Scheme()); err != nil {
		t.Fatal(err)
	}
	checkChannel(t, c)
	implementation, err := suite.ParseImplementation(
		*flags.ImplementationOrganization,
		*flags.ImplementationProject,
		*flags.ImplementationURL,
		*flags.ImplementationVersion,
		*flags.ImplementationContact,
		*flags.ImplementationAdditionalInformation,
	)
	if err != nil {
		t.Fatal(err)
	}

	options := suite.Options{
		Client:               c,
		ClientSet:            clientSet,
		KubeConfig:           *restConfig,
		Debug:                *flags.ShowDebug,
		CleanupBaseResources: *flags.CleanupBaseResources,
		SupportedFeatures:    suite.ParseSupportedFeatures(*flags.SupportedFeatures),
		ExemptFeatures:       suite.ParseSupportedFeatures(*flags.ExemptFeatures),
	}
	run := slices.Clone(tests.ConformanceTests)
	have, err := sockets()
	if err != nil {
		t.Fatal(err)
	}
	if !have {
		if err := same(run, withoutsctp.ConformanceTests); err != nil {
			t.Fatal(err)
		}
		run = slices.Clone(withoutsctp.ConformanceTests)
		options.Client = withoutServers{c, t.Logf}
		options.SkipTests = onlySCTP
	}
	wanted, err := regexp.Compile(*focus)
	if err != nil {
		t.Fatal(err)
	}
	run = slices.DeleteFunc(run, func(test suite.ConformanceTest) bool { return !wanted.MatchString(test.ShortName) })
	if len(run) == 0 {
		t.Fatalf("no test of the suite matches %s", *focus)
	}

	began := time.Now()
	s, err := suite.NewConformanceProfileTestSuite(suite.ConformanceProfileOptions{
		Options:             options,
		Implementation:      *implementation,
		ConformanceProfiles: suite.ParseConformanceProfiles(*flags.ConformanceProfiles),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Setup(t)
	if err := s.Run(t, run); err != nil {
		t.Fatal(err)
	}
	made, err := s.Report()
	if err != nil {
		t.Fatal(err)
	}
	if err := newOutcome(*made, run, kubernetes.Counts(), time.Since(began)).write(*out); err != nil {
		t.Fatal(err)
	}
}

// checkChannel fails the test if the definition that is installed is of another channel:
// the API server would take rules without the fields that it does not know.
func checkChannel(t *testing.T, c client.Client) {
	t.Helper()
	var installed apiextensions.CustomResourceDefinition
	if err := c.Get(context.Background(), client.ObjectKey{Name: "clusternetworkpolicies.policy.networking.k8s.io"}, &installed); err != nil {
		t.Fatal(err)
	}
	if got := installed.Annotations[consts.ChannelAnnotation]; got != *channel {
		t.Fatalf("the installed CustomResourceDefinition is of the channel %q, not %s", got, *channel)
	}
}
