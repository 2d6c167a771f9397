package rows

import (
	"encoding/hex"
	"testing"

	"posthouse/internal/spool/local/seglog"
)

// The layout of rows once changed and its number did not: the next start took
// sound messages for corrupt. Who changes a layout changes rowFormat, and reads
// the old one or refuses it with spool.ErrFormat.
func TestRowLayoutBelongsToItsNumber(t *testing.T) {
	const format1 = "0101" + "0a000000" + "0b000000" + "0c000000" + "0d000000" + "0e00000000000000" + "656e76"
	e := Envelope{At: seglog.Location{Seg: 10, Off: 11}, Head: 12, Body: 13, Large: true, Size: 14, Enc: []byte("env")}
	if got := hex.EncodeToString(e.append(nil)); rowFormat != 1 || got != format1 {
		t.Errorf("format %d is %s, format 1 is %s", rowFormat, got, format1)
	}
	raw, err := hex.DecodeString(format1)
	if err != nil {
		t.Fatal(err)
	}
	back, err := parseEnvelope(raw)
	if err != nil || back.At != e.At || back.Head != e.Head || back.Body != e.Body || back.Large != e.Large || back.Size != e.Size || string(back.Enc) != "env" {
		t.Errorf("read back %+v, %v", back, err)
	}
}
