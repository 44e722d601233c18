package report

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podfence/podfence/controllers/enforcer"
)

// ReasonTamperedWith is the reason of the Warning Event on a Node whose table
// somebody else has changed.
const ReasonTamperedWith = "TamperedWith"

// tampered says that somebody else has changed the table, and who. An Event on the Node says so too,
// the first time in a row, and the first time that the repair has to wait because of a fight. In
// Events the UID of a Node is its name, as kubelet has it. What the same program does is the same
// Event, until the API server forgets it.
func (r *Reporter) tampered(o enforcer.Tampered) {
	about := []any{"changes", o.What(), "process", o.Process, "pid", o.PID}
	message := fmt.Sprintf("podfence's table was changed, and replaced: %s; by %s", o.What(), o.Who())
	fight := o.Pause > 0
	if fight {
		warn(r.log, "Somebody else keeps changing the table; replacing it less often", append(about, "inARow", o.InARow, "after", o.Pause.String())...)
		r.Health.Set(CommitFailed, r.enforcer.CommitFailure())
		message = fmt.Sprintf("podfence's table is changed over and over, and replaced less and less often; last %s; by %s", o.What(), o.Who())
	} else {
		warn(r.log, "Somebody else has changed the table; replacing it", about...)
	}
	if o.InARow != 1 && o.InARow != enforcer.RepairsAtOnce+1 {
		return
	}
	node := corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: r.node, UID: types.UID(r.node)}
	r.Events.Create(r.Events.Warning(node, ReasonTamperedWith, fmt.Sprintf("%s %s %v", r.node, o.Process, fight), message))
}
