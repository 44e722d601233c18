package dns

import (
	"slices"
	"time"
)

// conversation is a flow, with what was asked in it.
type conversation struct {
	flow      Flow
	questions []asked
	// queries and replies are of TCP; ended: one of both has said that it sends no more.
	queries, replies stream
	ended            bool

	// touched is when the last packet came, and queried when the last query did, whatever it asked for.
	touched, queried time.Time
	// What bounds.go knows of it: until when it is kept, how much it takes, and its place in its pod's heap.
	expires time.Time
	octets  int
	at      int
}

// asked is a question that may be answered until then.
type asked struct {
	question
	until time.Time
}

// maxQuestions is how many questions of one flow may be open at a time. A socket of libc's has two.
const maxQuestions = 1024

// ask notes a question, or that it was asked again. It returns false if another had to go for it.
func (c *conversation) ask(q question, now time.Time) bool {
	until := now.Add(questionTime)
	for i := range c.questions {
		if c.questions[i].question == q {
			c.questions[i].until = until
			return true
		}
	}
	// At each growth, so that on average an append costs little.
	if len(c.questions) == cap(c.questions) || len(c.questions) >= maxQuestions {
		c.questions = slices.DeleteFunc(c.questions, func(a asked) bool { return !a.until.After(now) })
	}
	full := len(c.questions) >= maxQuestions
	if full {
		c.questions = slices.Delete(c.questions, 0, 1)
	}
	c.questions = append(c.questions, asked{question: q, until: until})
	return !full
}

// find returns what was asked, or why nothing is waited for. There need not be a conversation.
func (c *conversation) find(q question, now time.Time) (*asked, Reason) {
	why := NotAsked
	if c == nil {
		return nil, why
	}
	for i := range c.questions {
		a := &c.questions[i]
		switch {
		case !a.until.After(now):
		case a.question == q:
			return a, 0
		case a.id == q.id:
			why = WrongQuestion
		case why == NotAsked:
			why = WrongID
		}
	}
	return nil, why
}

// query reads a query.
func (c *conversation) query(message []byte, now time.Time) (why Reason) {
	c.queried = now
	q, _, _, why := read(message, false)
	if why != 0 {
		return why
	}
	if !c.ask(q, now) {
		return TooMany
	}
	return 0
}

// reply reads a reply. There need not be a conversation.
func (c *conversation) reply(message []byte, now time.Time) (a Answer, ok bool, ignored []Reason) {
	q, header, p, why := read(message, true)
	if why != 0 {
		return a, false, []Reason{why}
	}
	open, why := c.find(q, now)
	if why != 0 {
		return a, false, []Reason{why}
	}
	if a, ok, ignored = answer(q, header, p); ok {
		open.until = earlier(open.until, now.Add(answeredTime))
	}
	return a, ok, ignored
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// measure works out until when it is kept, and how much it takes.
func (c *conversation) measure() {
	c.expires = time.Time{}
	switch {
	case c.ended:
	case c.replies.started:
		c.expires = c.touched.Add(idleTime)
	case c.queries.started:
		c.expires = c.touched.Add(questionTime)
	}
	c.octets = conversationOctets + questionOctets*cap(c.questions) + c.queries.octets() + c.replies.octets()
	for _, a := range c.questions {
		c.octets += len(a.name)
		if a.until.After(c.expires) {
			c.expires = a.until
		}
	}
}
