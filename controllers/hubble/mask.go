package hubble

import (
	"strings"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// mask are the fields that a client wants of a flow, and of those the fields. Empty: all of them.
type mask map[protoreflect.Name]mask

// readMask reads a field mask.
func readMask(from *fieldmaskpb.FieldMask) (mask, error) {
	if len(from.GetPaths()) > 0 && !from.IsValid(&flowpb.Flow{}) {
		return nil, status.Errorf(codes.InvalidArgument, "field_mask: one of these is no field of a flow: %s", strings.Join(from.GetPaths(), ", "))
	}
	all := mask{}
	for _, path := range from.GetPaths() {
		at := all
		names := strings.Split(path, ".")
		for i, name := range names {
			below, known := at[protoreflect.Name(name)]
			if known && len(below) == 0 {
				break // all of it is wanted already
			}
			if below == nil || i == len(names)-1 {
				below = mask{}
				at[protoreflect.Name(name)] = below
			}
			at = below
		}
	}
	return all, nil
}

// apply takes out of a message what is not wanted.
func (m mask) apply(message protoreflect.Message) {
	if len(m) == 0 {
		return
	}
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		below, wanted := m[field.Name()]
		switch {
		case !wanted:
			message.Clear(field)
		case field.Message() != nil && !field.IsList() && !field.IsMap():
			below.apply(value.Message())
		}
		return true
	})
}
