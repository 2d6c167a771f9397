package message

import (
	"bufio"
	"errors"
	"io"
)

// HeaderSize reads r up to the end of the header and returns how many bytes
// the header takes, the separator not included.
func HeaderSize(r io.Reader) (int64, error) {
	br := bufio.NewReaderSize(r, maxLine)
	var n int64
	for first := true; ; first = false {
		line, err := br.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
			return n, err
		}
		if !continues(line, first) {
			return n, nil
		}
		n += int64(len(line))
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of an over-long line
			line, err = br.ReadSlice('\n')
			n += int64(len(line))
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// continues tells whether the header goes on with line.
func continues(line []byte, first bool) bool {
	if len(trimLineEnd(line)) == 0 {
		return false
	}
	if line[0] == ' ' || line[0] == '\t' {
		return !first
	}
	_, colon := nameEnd(line[:min(len(line), maxLine-1)])
	return colon >= 0
}
