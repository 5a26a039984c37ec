package kubelet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// This file is all that is needed of gRPC's framing and of protobuf to read two
// small messages of CRI (k8s.io/cri-api, runtime/v1/api.proto).

// frameHead is the head of a gRPC message: a flag for compression, four bytes of
// length.
const frameHead = 5

// emptyFrame is a message without a field.
var emptyFrame = make([]byte, frameHead)

// unframe takes the one message out of the body of a unary answer.
func unframe(body []byte) ([]byte, error) {
	if len(body) < frameHead {
		return nil, errors.New("its answer breaks off in the head of a message")
	}
	if body[0] != 0 {
		return nil, errors.New("its answer is compressed, which was not asked for")
	}
	message := body[frameHead:]
	switch length := binary.BigEndian.Uint32(body[1:frameHead]); {
	case uint64(len(message)) < uint64(length):
		return nil, errors.New("its answer breaks off in the middle of a message")
	case uint64(len(message)) > uint64(length):
		return nil, errors.New("its answer goes on after the message")
	}
	return message, nil
}

// criVersion is CRI's VersionResponse.
type criVersion struct {
	version, name, runtimeVersion, apiVersion string
}

// maxName bounds what a runtime may call itself: it goes into status and log.
const maxName = 100

// parseVersion reads a VersionResponse. Strings that are no plain words are
// refused, so that they can be shown as they are.
func parseVersion(message []byte) (criVersion, error) {
	var v criVersion
	err := eachField(message, func(number uint64, _ uint64, data []byte) error {
		into := map[uint64]*string{1: &v.version, 2: &v.name, 3: &v.runtimeVersion, 4: &v.apiVersion}[number]
		if into == nil || data == nil {
			return nil // of a later version
		}
		if len(data) > maxName || !utf8.Valid(data) || strings.ContainsFunc(string(data), func(r rune) bool { return !unicode.IsGraphic(r) }) {
			return fmt.Errorf("field %d of its answer is no name or version", number)
		}
		*into = string(data)
		return nil
	})
	return v, err
}

// String is what the runtime calls itself.
func (v criVersion) String() string {
	return strings.TrimSpace(v.name + " " + v.runtimeVersion)
}

// missing names the fields that a kubelet insists on and that are empty.
func (v criVersion) missing() []string {
	var out []string
	for _, field := range []struct{ name, value string }{
		{"version", v.version}, {"runtime_name", v.name},
		{"runtime_version", v.runtimeVersion}, {"runtime_api_version", v.apiVersion},
	} {
		if field.value == "" {
			out = append(out, field.name)
		}
	}
	return out
}

// parseRuntimeConfig reads the cgroup driver out of a RuntimeConfigResponse. An
// answer without its part for Linux tells nothing; in one that has it, a driver
// that is left out is the first of the list, as protobuf has it: systemd.
func parseRuntimeConfig(message []byte) (driver string, err error) {
	err = eachField(message, func(number uint64, _ uint64, data []byte) error {
		if number != 1 || data == nil {
			return nil
		}
		if driver == "" {
			driver = DriverSystemd
		}
		return eachField(data, func(number, value uint64, data []byte) error {
			if number != 1 || data != nil {
				return nil
			}
			switch value {
			case 0:
				driver = DriverSystemd
			case 1:
				driver = DriverCgroupfs
			default:
				return fmt.Errorf("cgroup driver %d is not known", value)
			}
			return nil
		})
	})
	if err != nil {
		return "", err
	}
	return driver, nil
}

// The kinds of values in protobuf's encoding.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

var errProtobuf = errors.New("its answer is no protobuf message")

// eachField calls f for the fields of a message in their order: with value for a
// varint (data is nil then), with data (never nil) for bytes. Numbers of fixed
// size are passed over: nothing that is read here has one.
func eachField(message []byte, f func(number, value uint64, data []byte) error) error {
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29-1 {
			return errProtobuf
		}
		message = message[n:]
		var value uint64
		var data []byte
		skip := 0
		switch tag & 7 {
		case wireVarint:
			if value, skip = binary.Uvarint(message); skip <= 0 {
				return errProtobuf
			}
		case wireBytes:
			length, n := binary.Uvarint(message)
			if n <= 0 || length > uint64(len(message)-n) {
				return errProtobuf
			}
			skip = n + int(length) // not more than what is left of the message
			data = message[n:skip:skip]
			if data == nil {
				data = []byte{}
			}
		case wireFixed64:
			skip = 8
		case wireFixed32:
			skip = 4
		default:
			return errProtobuf
		}
		if skip > len(message) {
			return errProtobuf
		}
		message = message[skip:]
		if tag&7 == wireVarint || tag&7 == wireBytes {
			if err := f(tag>>3, value, data); err != nil {
				return err
			}
		}
	}
	return nil
}
