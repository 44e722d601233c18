//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/podfence/podfence/cni/netns"
	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/test/check"
	"github.com/podfence/podfence/test/page"
)

// TestUI: in a browser, the map, the matrix and explanations of a real cluster are what kubectl podfence reach and
// explain say, and a connection that is denied is a line on the map, as an agent has told.
func TestUI(t *testing.T) {
	p, s := newPlugin(t), newAsked(t)
	enforce(t, s.policy("client"))
	expectWays(t, "the server to let the client in", s.http(t, s.client), s.http(t, s.stranger))
	b := page.Open(t, "../../bin/ui-screenshots", p.page(t), "light")
	b.Visit("#map?open=" + s.namespace + "&q=" + s.namespace + "&live=1")

	_, out, errOut := p.call(t, "reach", "ns/"+s.namespace, "-o", "json")
	var reach explain.Reach
	if err := json.Unmarshal([]byte(out), &reach); err != nil {
		t.Fatal(err, errOut)
	}
	server := s.namespace + "/server"
	want := map[string]bool{}
	for _, row := range reach.Ingress {
		if from := row.From.String(); row.To.String() == server && row.From.Namespace == s.namespace && len(row.Open) > 0 {
			want[from] = true
		}
	}
	got := map[string]bool{}
	for _, from := range page.Eval[[]string](b, fmt.Sprintf(`[...document.querySelectorAll('.edge[data-how=allowed][data-to=%q]')].map(e => e.dataset.from).filter(f => f.startsWith(%q))`, server, s.namespace+"/")) {
		got[from] = true
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || !want[s.namespace+"/client"] || want[s.namespace+"/stranger"] {
		t.Errorf("the map has lines to the server from %v, reach has %v", got, want)
	}

	expectWays(t, "the stranger to be denied", nil, s.http(t, s.stranger))
	b.Waits(fmt.Sprintf(`document.querySelector('.edge[data-how=flow-denied][data-from=%q][data-to=%q]')`, s.namespace+"/stranger", server))
	b.Picture("cluster-map")

	b.Visit("#matrix?namespace=" + s.namespace)
	b.Click(fmt.Sprintf(`.grid button[data-from=%q][data-to=%q]`, s.namespace+"/stranger", server))
	b.Waits(fmt.Sprintf(`document.querySelector("#panel")?.dataset.explained === %q`, s.namespace+"/stranger "+server))
	_, text, _ := p.call(t, "explain", s.namespace+"/stranger", server)
	if said := page.Eval[string](b, `document.querySelector("#panel .answer").textContent`); said != strings.TrimSpace(text) {
		t.Errorf("the page explains:\n%s\nexplain:\n%s", said, text)
	}
	b.Picture("cluster-matrix")

	// What is applied is there when the objects are read again.
	s.letsIn(t, "stranger")
	b.Keys("r")
	b.Waits(fmt.Sprintf(`document.querySelector('.grid button.open[data-from=%q][data-to=%q]')`, s.namespace+"/stranger", server))
}

// page serves the page, and returns where a browser on this side of the cluster's network finds it.
func (p plugin) page(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd, err := theCluster.KubectlCommand(ctx, "podfence", "ui", "--refresh", "0")
	check.NoError(t, err)
	cmd.Env = append(cmd.Env, "PATH="+p.folder+":"+os.Getenv("PATH"))
	cmd.Stderr = os.Stderr
	out := check.Value(cmd.StdoutPipe())(t)
	check.NoError(t, cmd.Start())
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	address := strings.TrimSpace(check.Value(bufio.NewReader(out).ReadString('\n'))(t))
	there := check.Value(url.Parse(address))(t)
	listens := there.Host
	here := check.Value(net.Listen("tcp", "127.0.0.1:0"))(t)
	t.Cleanup(func() { here.Close() })
	go func() {
		for {
			conn, err := here.Accept()
			if err != nil {
				return
			}
			go lead(conn, listens)
		}
	}()
	there.Host = here.Addr().String()
	return there.String()
}

// lead leads a connection to an address where kubectl runs.
func lead(from net.Conn, address string) {
	defer from.Close()
	var to net.Conn
	err := netns.InsidePath(theCluster.HostNetNS("cp"), func() (err error) {
		to, err = net.Dial("tcp", address)
		return err
	})
	if err != nil {
		return
	}
	defer to.Close()
	done := make(chan bool, 2)
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		go func() {
			_, _ = io.Copy(way[0], way[1])
			done <- true
		}()
	}
	<-done
}
