package record

import (
	"fmt"
	"strings"
)

// Machine is what tells this machine and this boot from others.
type Machine struct {
	BootID    string `json:"bootID,omitempty"`    // new at every boot
	MachineID string `json:"machineID,omitempty"` // /etc/machine-id
	UUID      string `json:"uuid,omitempty"`      // DMI product UUID; empty where there is none
	// Transient: the machine ID is not on the disk (yet): another boot may have
	// another one.
	Transient bool `json:"transient,omitempty"`
}

// placeholders are product UUIDs that many machines have, because whoever made the
// board left the field of its firmware as it was.
var placeholders = map[string]string{
	"03000200-0400-0500-0006-000700080009": "AMI's firmware, before a maker fills it in",
	"00020003-0004-0005-0006-000700080009": "the same in the other byte order",
	"12345678-1234-5678-90ab-cddeefaabbcc": "boards of Supermicro and others whose field was never filled in",
	"78563412-3412-7856-90ab-cddeefaabbcc": "the same in the other byte order",
	"fefefefe-fefe-fefe-fefe-fefefefefefe": "memory that was never written",
	"03020100-0504-0706-0809-0a0b0c0d0e0f": "counted through by a maker's tool",
	"00010203-0405-0607-0809-0a0b0c0d0e0f": "the same in the other byte order",
	"ffffffff-ffff-ffff-ffff-ffffffffffff": "by SMBIOS: not present, but can be set",
	"00000000-0000-0000-0000-000000000000": "by SMBIOS: not present",
	"11111111-2222-3333-4444-555555555555": "typed by hand",
	"12345678-1234-1234-1234-123456789abc": "typed by hand",
}

// UsableUUID says whether a product UUID tells one machine from another: it has
// the form of one and is no placeholder.
func UsableUUID(uuid string) bool {
	uuid = strings.ToLower(uuid)
	if _, known := placeholders[uuid]; known || len(uuid) != 36 {
		return false
	}
	digits := strings.ReplaceAll(uuid, "-", "")
	return len(digits) == 32 && isHex(digits) && strings.Trim(digits, digits[:1]) != ""
}

// usableID: systemd writes "uninitialized" where an image has no ID of its own yet.
func (m Machine) usableID() bool {
	return len(m.MachineID) == 32 && isHex(m.MachineID) && !m.Transient && strings.Trim(m.MachineID, "0") != ""
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdefABCDEF") == "" }

// Differs says that a record made on machine m was made on another one than now,
// and by what: two product UUIDs that can be used and differ; or, where one of
// them cannot be used, two machine IDs. "" is the same machine, as far as can be
// told. A machine ID that was not there yet, or is of one boot only, tells nothing.
func (m Machine) Differs(now Machine) string {
	switch {
	case UsableUUID(m.UUID) && UsableUUID(now.UUID):
		if !strings.EqualFold(m.UUID, now.UUID) {
			return fmt.Sprintf("its product UUID was %s and is %s", m.UUID, now.UUID)
		}
	case m.usableID() && now.usableID() && !strings.EqualFold(m.MachineID, now.MachineID):
		return fmt.Sprintf("its machine ID was %s and is %s", m.MachineID, now.MachineID)
	}
	return ""
}

// Behind says whether now tells more of the same machine than m does: a record is
// brought up to date then, or a later copy of it would not be noticed.
func (m Machine) Behind(now Machine) bool {
	if m.Differs(now) != "" {
		return false
	}
	more := UsableUUID(now.UUID) && !UsableUUID(m.UUID)
	return more || now.usableID() && (!m.usableID() || !strings.EqualFold(m.MachineID, now.MachineID))
}
