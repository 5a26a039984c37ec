package record

import (
	"strings"
	"testing"
)

const (
	uuidA, uuidB = "4c4c4544-0042-3510-8052-b4c04f564433", "4c4c4544-0042-3510-8052-b4c04f564434"
	idA, idB     = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
)

func TestAnotherMachineIsToldByWhatCanBeUsed(t *testing.T) {
	for _, tt := range []struct {
		name     string
		was, is  Machine
		differs  string // part of the words; "": the same
		toUpdate bool
	}{
		{"all the same, another boot", Machine{"b1", idA, uuidA, false}, Machine{"b2", idA, uuidA, false}, "", false},
		{"another board", Machine{"b", idA, uuidA, false}, Machine{"b", idA, uuidB, false}, "UUID", false},
		{"another board and another ID", Machine{"b", idA, uuidA, false}, Machine{"b", idB, uuidB, false}, "UUID", false},
		{"the same board, installed anew around the records", Machine{"b", idA, uuidA, false}, Machine{"b", idB, uuidA, false}, "", true},
		{"the same board in capitals", Machine{"b", idA, uuidA, false}, Machine{"b", idA, strings.ToUpper(uuidA), false}, "", false},
		{"no board's UUID, another ID", Machine{"b", idA, "", false}, Machine{"b", idB, "", false}, "machine ID", false},
		{"no board's UUID, the same ID", Machine{"b", idA, "", false}, Machine{"b", idA, "", false}, "", false},
		{"zeros for a UUID, another ID", Machine{"b", idA, "00000000-0000-0000-0000-000000000000", false}, Machine{"b", idB, uuidA, false}, "machine ID", false},
		{"zeros for a UUID, the same ID", Machine{"b", idA, "00000000-0000-0000-0000-000000000000", false}, Machine{"b", idA, uuidA, false}, "", true},
		{"a maker's placeholder, another ID", Machine{"b", idA, "03000200-0400-0500-0006-000700080009", false}, Machine{"b", idB, "03000200-0400-0500-0006-000700080009", false}, "machine ID", false},
		{"two placeholders, the same ID", Machine{"b", idA, "03000200-0400-0500-0006-000700080009", false}, Machine{"b", idA, "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", false}, "", false},
		{"a UUID that is no UUID", Machine{"b", idA, "Not Settable", false}, Machine{"b", idA, uuidA, false}, "", true},
		{"an image without an ID, first boot", Machine{"b", "uninitialized", "", false}, Machine{"b", idA, "", false}, "", true},
		{"an empty ID, later one", Machine{"b", "", "", false}, Machine{"b", idA, "", false}, "", true},
		{"an ID of one boot only, then another", Machine{"b", idA, "", true}, Machine{"b", idB, "", true}, "", false},
		{"an ID of the first boot, then on the disk", Machine{"b", idA, "", true}, Machine{"b", idA, "", false}, "", true},
		{"an ID on the disk, then a boot without it", Machine{"b", idA, "", false}, Machine{"b", idB, "", true}, "", false},
		{"an ID that cannot be read today", Machine{"b", idA, "", false}, Machine{"b", "", "", false}, "", false},
		{"a UUID that cannot be read today", Machine{"b", idA, uuidA, false}, Machine{"b", idA, "", false}, "", false},
		{"a record without a machine", Machine{}, Machine{"b", idA, uuidA, false}, "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.was.Differs(tt.is)
			if (got == "") != (tt.differs == "") || !strings.Contains(got, tt.differs) {
				t.Errorf("differs: %q, want %q", got, tt.differs)
			}
			if knows := tt.was.Behind(tt.is); knows != tt.toUpdate {
				t.Errorf("to be brought up to date: %t", knows)
			}
		})
	}
}

func TestPlaceholdersAndOtherNonsenseAreNoUUID(t *testing.T) {
	for uuid := range placeholders {
		if UsableUUID(uuid) || UsableUUID(strings.ToUpper(uuid)) {
			t.Errorf("%s counts as a machine's own", uuid)
		}
	}
	for _, uuid := range []string{"", "x", "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa", uuidA[1:], uuidA + "0", strings.Replace(uuidA, "4", "g", 1), strings.ReplaceAll(uuidA, "-", "")} {
		if UsableUUID(uuid) {
			t.Errorf("%q counts as a machine's own", uuid)
		}
	}
	if !UsableUUID(uuidA) {
		t.Error("a real one does not")
	}
}
