package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// printer writes tables: in colour on a terminal, plain elsewhere.
type printer struct {
	out    io.Writer
	colour bool
}

func newPrinter(out io.Writer) *printer {
	p := &printer{out: out}
	if file, is := out.(*os.File); is {
		info, err := file.Stat()
		p.colour = err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	return p
}

const (
	green  = "32"
	dim    = "2"
	bold   = "1"
	alarm  = "41;97"
	column = 10
)

// paint pads a text and colours it.
func (p *printer) paint(code, text string, width int) string {
	padded := fmt.Sprintf("%-*s", width, text)
	if !p.colour {
		return padded
	}
	return "\x1b[" + code + "m" + padded + "\x1b[0m"
}

func (p *printer) intro() {
	fmt.Fprint(p.out, `podfence demo: a shop on two nodes, in network namespaces. Pods, connected by
podfence-cni: shop/frontend, shop/backend, data/db. Outside: a customer, a
partner, and a host that an ipBlock's except leaves out. Every cell is real
traffic, TCP or UDP, over IPv4 and IPv6.
`)
}

// stage writes what became of the conversations, a row for each who began them,
// and counts those that went wrong.
func (p *printer) stage(title string, services []service, all []conversation) int {
	fmt.Fprintf(p.out, "\n%s\n\n", p.paint(bold, title, 0))
	p.header(services)
	var complaints []conversation
	for len(all) > 0 {
		from := all[0].from
		line := rowTitle(from.Name, from.where)
		for _, to := range services {
			if len(all) == 0 || all[0].from != from || all[0].to != to {
				line += strings.Repeat(" ", column)
				continue
			}
			line += p.cell(all[0])
			if all[0].wrong {
				complaints = append(complaints, all[0])
			}
			all = all[1:]
		}
		fmt.Fprintln(p.out, strings.TrimRight(line, " "))
	}
	for _, c := range complaints {
		fmt.Fprintf(p.out, "  WRONG: %s to %s %s (%s port %d) must be %s\n", c.from, c.to.host, c.to.what, c.to.protocol, c.to.port, c.verdict)
	}
	return len(complaints)
}

func (p *printer) cell(c conversation) string {
	switch {
	case c.wrong:
		return p.paint(alarm, "WRONG", column)
	case c.want:
		return p.paint(green, "yes", column)
	}
	return p.paint(dim, "-", column)
}

// header writes the services' titles in three lines: whose, what, and where.
func (p *printer) header(services []service) {
	lines := []string{rowTitle(`from \ to`, ""), rowTitle("", ""), rowTitle("", "")}
	for _, s := range services {
		for i, word := range []string{s.host.Name, s.what, s.host.where} {
			lines[i] += fmt.Sprintf("%-*s", column, word)
		}
	}
	for _, line := range lines {
		fmt.Fprintln(p.out, strings.TrimRight(line, " "))
	}
}

func rowTitle(name, where string) string { return fmt.Sprintf("  %-10s%-9s", name, where) }

func (p *printer) outro(keep bool, folder string) {
	fmt.Fprint(p.out, "\nEvery packet got the verdict that the policies give.\n")
	if !keep {
		p.ask("config/samples", "deploy/shop/frontend", "svc/shop/backend:80", "deploy/shop/frontend", "deploy/shop-db/db:5432")
		return
	}
	p.ask(filepath.Join(folder, "manifests"), "shop/backend", "data/db:5432", "shop/frontend", "shop/backend:http")
	fmt.Fprintf(p.out, `
Kept. Look around:
  ip netns exec %[1]snode-2 nft list table inet podfence
  ip netns exec %[1]snode-2 nft list table bridge podfence
  ip netns exec %[1]snode-2 ip route show proto 112   # podfence's: other nodes' pods, own pods
  ip netns exec %[1]sbackend ip address
  ip netns exec %[1]sbackend ping -c 1 198.51.100.20   # denied: the rule has ports
  cat %[2]s/node-2/net.d/*.conflist
  ls %[2]s/manifests
The same agent on the same node, following changes in that folder, and what it says that the kernel does:
  ip netns exec %[1]snode-2 %[3]s agent --node-name node-2 --manifests %[2]s/manifests \
    --cni bridge --cni-socket %[2]s/node-2/agent.sock --cni-state %[2]s/node-2/attachments \
    --cni-conf-dir %[2]s/node-2/net.d --cni-bin-dir %[2]s/node-2/bin &
  ip netns exec %[1]snode-2 %[4]s explain --verify -f %[2]s/manifests --agent 127.0.0.1:9477 shop/backend data/db:5432
Remove it with:
  for ns in $(ip netns list | grep -o '%[1]s[a-z0-9-]*'); do ip netns delete $ns; done; rm -r %[2]s
`, prefix, folder, beside("podfence"), beside("kubectl-podfence"))
}

// ask says how to ask about objects in a folder: why one connection passes and another does not, and who
// reaches whom.
func (p *printer) ask(folder, from, to, deniedFrom, deniedTo string) {
	fmt.Fprintf(p.out, `
Ask why, and who reaches whom (kubectl podfence, without a cluster):
  %[1]s explain -f %[2]s %[3]s %[4]s
  %[1]s explain -f %[2]s %[5]s %[6]s
  %[1]s reach -f %[2]s --matrix --all-namespaces
  %[1]s ui -f %[2]s   # the same in a browser
`, beside("kubectl-podfence"), folder, from, to, deniedFrom, deniedTo)
}

// beside is the path of another program of podfence, which make builds into the folder of this one.
func beside(program string) string {
	if path, err := os.Executable(); err == nil {
		return filepath.Join(filepath.Dir(path), program)
	}
	return program
}
