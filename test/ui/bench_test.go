package ui

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/podfence/podfence/test/page"
)

// wide writes 500 namespaces with 5 workloads of 8 pods each, and 4 policies each.
func wide(b *testing.B) string {
	dir := b.TempDir()
	for i := range 500 {
		var out bytes.Buffer
		fmt.Fprintf(&out, "apiVersion: v1\nkind: Namespace\nmetadata: {name: ns-%d, labels: {kubernetes.io/metadata.name: ns-%d}}\n", i, i)
		for w := range 5 {
			fmt.Fprintf(&out, `---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: w-%[2]d, namespace: ns-%[1]d}
spec:
  replicas: 8
  selector: {matchLabels: {app: w-%[2]d}}
  template:
    metadata: {labels: {app: w-%[2]d}}
    spec: {containers: [{name: main, image: main, ports: [{containerPort: 8080}]}]}
`, i, w)
		}
		for name, spec := range map[string]string{
			"default-deny": "{podSelector: {}, policyTypes: [Ingress, Egress]}",
			"in":           fmt.Sprintf("{podSelector: {matchLabels: {app: w-0}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: w-1}}}, {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ns-%d}}, podSelector: {matchLabels: {app: w-1}}}], ports: [{port: 8080}]}]}", (i+1)%500),
			"out":          "{podSelector: {matchLabels: {app: w-1}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: w-0}}}]}]}",
			"internet":     fmt.Sprintf("{podSelector: {matchLabels: {app: w-2}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 198.18.%d.0/24}}]}]}", i%10),
		} {
			fmt.Fprintf(&out, "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s, namespace: ns-%d}\nspec: %s\n", name, i, spec)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("ns-%d.yaml", i)), out.Bytes(), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// BenchmarkPage opens the page of 20,000 pods in 500 namespaces under 2,000 policies: the first view in a new browser,
// with the map drawn; a namespace that is opened; a workload that is selected, with who reaches it; and the most memory
// that the plugin has had. The objects are read before.
func BenchmarkPage(b *testing.B) {
	address := serve(b, "-f", wide(b), "--refresh", "0")
	tab := page.Open(b, pictures, address, "light")
	var coldest, first, opened, selected time.Duration
	turns := 0
	for i := 0; b.Loop(); i++ {
		tab.Do(chromedp.Navigate("about:blank"))
		began := time.Now()
		tab.Do(chromedp.Navigate(address + "#map"))
		tab.Ready()
		took := time.Since(began)
		coldest = max(coldest, took)
		first += took
		if n := page.Eval[int](tab, `document.querySelectorAll("[data-id^='ns/']").length`); n != 500 {
			b.Fatalf("%d namespaces", n)
		}
		opened += page.Eval[time.Duration](tab, click(fmt.Sprintf("ns/ns-%d", i%500), fmt.Sprintf(`document.querySelector("[data-id='sts/ns-%d/w-0']")`, i%500)))
		id := fmt.Sprintf("sts/ns-%d/w-0", i%500)
		selected += page.Eval[time.Duration](tab, click(id, fmt.Sprintf(`document.querySelector("#panel")?.dataset.selected === %q`, id)))
		turns++
	}
	b.ReportMetric(float64(coldest.Milliseconds()), "ms-slowest-first-view")
	b.ReportMetric(float64(first.Milliseconds())/float64(turns), "ms-first-view")
	b.ReportMetric(float64(opened)/float64(turns), "ms-open")
	b.ReportMetric(float64(selected)/float64(turns), "ms-select")
	b.ReportMetric(peak(b), "MB-plugin")
	b.ReportMetric(0, "ns/op")
}

// click is JavaScript that clicks a node of the map, and is after how many milliseconds something was so.
func click(id, so string) string {
	return fmt.Sprintf(`new Promise(done => {
		const began = performance.now()
		document.querySelector('[data-id="%s"]').dispatchEvent(new MouseEvent("click", {bubbles: true}))
		const look = () => (%s) && document.body.dataset.ready === "true" ? done(Math.round(performance.now() - began)) : setTimeout(look, 2)
		look()
	})`, id, so)
}

// peak is the most memory that the plugin has had, in megabytes.
func peak(b *testing.B) float64 {
	files, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		b.Fatal(err)
	}
	for _, file := range files {
		if exe, err := os.Readlink(filepath.Join(filepath.Dir(file), "exe")); err != nil || exe != plugin {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
			if text, is := strings.CutPrefix(lines.Text(), "VmHWM:"); is {
				kilobytes, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(text), " kB"))
				return float64(kilobytes) / 1000
			}
		}
	}
	b.Fatal("the plugin has ended")
	return 0
}
