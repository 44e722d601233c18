package random_test

import (
	"math/rand"
	"testing"

	"github.com/podfence/podfence/test/random"
)

// TestNoFeatureIsMissing: what firewalls have been wrong about comes up, in clusters and in
// the way to them.
func TestNoFeatureIsMissing(t *testing.T) {
	var histories, clusters random.Coverage
	for seed := range int64(1000) {
		history := random.History(rand.New(rand.NewSource(seed)), 80)
		histories.Count(random.HistoryFeatures(history))
		clusters.Count(random.Features(random.Snapshot(history)))
	}
	for what, c := range map[string]*random.Coverage{"histories of 80 changes": &histories, "clusters at their ends": &clusters} {
		t.Log(c.Table(what))
		for _, name := range c.Missing() {
			t.Errorf("none of 1,000 %s has %q", what, name)
		}
	}
}
