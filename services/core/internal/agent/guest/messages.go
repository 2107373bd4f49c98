package guest

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
)

// meetMessages has package proto learn what it learns of a message when it is
// first met, for all that the host may send or be sent.
func meetMessages() { meet(guestv1.File_aetherium_guest_v1_guest_proto.Messages()) }

func meet(all protoreflect.MessageDescriptors) {
	for i := range all.Len() {
		d := all.Get(i)
		if t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName()); err == nil { // maps' entries are none
			_ = proto.Size(t.New().Interface())
		}
		meet(d.Messages())
	}
}
