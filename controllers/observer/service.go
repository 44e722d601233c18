package observer

import (
	"context"
	"net/netip"
	"time"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/policy"
)

// Service is where a Service is reached.
type Service struct {
	policy.Key
	// Addresses are those by which it is reached: its cluster IPs, its external IPs, and those of its load
	// balancers.
	Addresses []netip.Addr
	Ports     []ServicePort
}

// ServicePort is one port of a Service.
type ServicePort struct {
	// Protocol is as in flows.Flow.
	Protocol string
	// Port is that at the Service's Addresses, and NodePort that at each node's; 0: nodes have none.
	Port, NodePort uint16
}

// ServiceLister asks the API server for Services. Each call is one request. Its methods may be called from any
// goroutine.
type ServiceLister interface {
	// InNamespace are the Services of a namespace; more: these are not all of them.
	InNamespace(ctx context.Context, namespace string) (services []Service, more bool, err error)
	// WithClusterIP is the Service that has a cluster IP, in whichever namespace; none, if the address is not
	// the first of a Service's cluster IPs.
	WithClusterIP(ctx context.Context, addr netip.Addr) ([]Service, error)
}

const (
	// servicesLast is for how long what the API server has said counts. A Service's address may be another's
	// afterwards, which has its name only then.
	servicesLast = 5 * time.Minute
	// askAgain is after how long the API server is asked again for an address that it did not have.
	askAgain = 30 * time.Second
	// restAfter is for how long it is not asked at all after it could not be.
	restAfter = 30 * time.Second
	// mostTargets is how many targets are kept at most, and mostOfOne how many of one answer. One takes some
	// 150 bytes.
	mostTargets, mostOfOne = 20_000, 5_000
)

// serviceQuestion is what the API server is asked: for the Services of a namespace or, if that is empty, for
// that of a cluster IP.
type serviceQuestion struct {
	namespace string
	addr      netip.Addr
}

// addressCost is what a question for a cluster IP counts: the API server looks through all Services for it.
const addressCost = 5

// cost is how many questions it counts.
func (q serviceQuestion) cost() int {
	if q.namespace == "" {
		return addressCost
	}
	return 1
}

// ask asks the API server.
func (q serviceQuestion) ask(ctx context.Context, of ServiceLister) (services []Service, more bool, err error) {
	if q.namespace != "" {
		return of.InNamespace(ctx, q.namespace)
	}
	services, err = of.WithClusterIP(ctx, q.addr)
	return services, false, err
}

// serviceTarget is what a flow asks for. Without an address, it is a port of every node.
type serviceTarget struct {
	addr     netip.Addr
	protocol string
	port     uint16
}

// wanted is what is to be known of a flow.
type wanted struct {
	serviceTarget
	// namespace is that of the pod that the flow has reached; empty: it has reached none.
	namespace string
	// isNode reports whether the address is a node's own.
	isNode func() bool
}

// wantedOf is what is to be known of a flow that has asked for an address.
func wantedOf(f *flows.Flow, names Names) wanted {
	return wanted{
		serviceTarget: serviceTarget{f.Asked.IP.Unmap(), f.Protocol, f.Asked.Port}, namespace: f.Destination.Namespace,
		isNode: func() bool { return names.Endpoint(f.Asked.IP, f.Asked.Port).Node != "" },
	}
}

// serviceAnswer is what the API server has said. The key of a target that two Services have is empty: nobody
// can tell which of them was asked for.
type serviceAnswer struct {
	at      time.Time
	targets map[serviceTarget]policy.Key
	// more: it has more Services than these.
	more bool
}

// knownServices are what the API server has said, of late, about the Services that were asked for. It is for
// one goroutine at a time.
type knownServices struct {
	answers map[serviceQuestion]serviceAnswer
	targets int
	// restUntil is until when the API server is not asked.
	restUntil time.Time
}

// find is the Service that a flow has asked for, with an empty name if that is not known. Then ask is what to ask
// the API server to know it; nil: it could not say.
//
// A Service nearly always leads to pods of its own namespace, so that the Services of one namespace tell, of any
// kind of address. Where a flow has reached no pod, as with the API server's own Service, or a Service's endpoints
// were made by hand, the cluster IP tells.
func (k *knownServices) find(w wanted, now time.Time) (service policy.Key, ask *serviceQuestion) {
	inNamespace, byAddress := serviceQuestion{namespace: w.namespace}, serviceQuestion{addr: w.addr}
	var questions []serviceQuestion
	if w.namespace != "" {
		answer := k.fresh(inNamespace, now)
		if service, found := answer.targets[w.serviceTarget]; found {
			return service, nil
		}
		if service, found := answer.targets[serviceTarget{protocol: w.protocol, port: w.port}]; found && w.isNode() {
			return service, nil
		}
		questions = append(questions, inNamespace)
	}
	if service, found := k.fresh(byAddress, now).targets[w.serviceTarget]; found {
		return service, nil
	}
	if now.Before(k.restUntil) {
		return policy.Key{}, nil
	}
	for _, question := range append(questions, byAddress) {
		answer := k.fresh(question, now)
		switch known := !answer.at.IsZero(); {
		case known && (answer.more || now.Sub(answer.at) < askAgain):
		case question == byAddress && w.isNode(): // a node's address is no cluster IP
		default:
			return policy.Key{}, &question
		}
	}
	return policy.Key{}, nil
}

// fresh is an answer that still counts, or an empty one.
func (k *knownServices) fresh(q serviceQuestion, now time.Time) serviceAnswer {
	if answer, is := k.answers[q]; is && now.Sub(answer.at) < servicesLast {
		return answer
	}
	return serviceAnswer{}
}

// learn takes an answer in. If there is no room for it, the oldest are forgotten.
func (k *knownServices) learn(q serviceQuestion, services []Service, more bool, now time.Time) {
	answer := serviceAnswer{at: now, targets: map[serviceTarget]policy.Key{}, more: more}
	for i := range services {
		if len(answer.targets) >= mostOfOne {
			answer.more = true
			break
		}
		answer.add(&services[i])
	}
	k.forget(now)
	k.remove(q)
	for k.targets+answer.size() > mostTargets && len(k.answers) > 0 {
		k.remove(k.oldest())
	}
	if k.answers == nil {
		k.answers = map[serviceQuestion]serviceAnswer{}
	}
	k.answers[q] = answer
	k.targets += answer.size()
}

// forget forgets what does not count any more.
func (k *knownServices) forget(now time.Time) {
	for q, answer := range k.answers {
		if now.Sub(answer.at) >= servicesLast {
			k.remove(q)
		}
	}
}

func (k *knownServices) remove(q serviceQuestion) {
	if answer, is := k.answers[q]; is {
		k.targets -= answer.size()
		delete(k.answers, q)
	}
}

// oldest is the question whose answer is the oldest.
func (k *knownServices) oldest() (oldest serviceQuestion) {
	var at time.Time
	for q, answer := range k.answers {
		if at.IsZero() || answer.at.Before(at) {
			oldest, at = q, answer.at
		}
	}
	return oldest
}

// rest has the API server not be asked for a while.
func (k *knownServices) rest(now time.Time) { k.restUntil = now.Add(restAfter) }

// size is how much room an answer takes, in targets. One without any takes room, too.
func (a *serviceAnswer) size() int { return 1 + len(a.targets) }

// add adds a Service's targets, as far as there is room for them.
func (a *serviceAnswer) add(s *Service) {
	add := func(t serviceTarget) {
		switch has, is := a.targets[t]; {
		case is && has != s.Key:
			a.targets[t] = policy.Key{}
		case !is && len(a.targets) < mostOfOne:
			a.targets[t] = s.Key
		case !is:
			a.more = true
		}
	}
	for _, p := range s.Ports {
		for _, addr := range s.Addresses {
			add(serviceTarget{addr, p.Protocol, p.Port})
		}
		if p.NodePort != 0 {
			add(serviceTarget{protocol: p.Protocol, port: p.NodePort})
		}
	}
}
