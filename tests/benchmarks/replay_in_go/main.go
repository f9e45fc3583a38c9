// A plain producer of detections: encoding/csv, a struct, encoding/json, and franz-go with a callback for each
// record. Idempotent and acks=all, as franz-go is by default.
package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"
)

type detection struct {
	FrameNumber  int64   `json:"frame_number"`
	TimestampSec float64 `json:"timestamp_sec"`
	PixelU       float64 `json:"pixel_u"`
	PixelV       float64 `json:"pixel_v"`
	Confidence   float64 `json:"confidence"`
	ClassName    string  `json:"class_name"`
	VehicleLat   float64 `json:"vehicle_lat"`
	VehicleLon   float64 `json:"vehicle_lon"`
	Heading      float64 `json:"heading"`
}

func number(text string) float64 {
	value, err := strconv.ParseFloat(text, 64)
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	path, servers, topic := os.Args[1], os.Args[2], os.Args[3]
	client, err := kgo.NewClient(
		kgo.SeedBrokers(servers),
		kgo.DefaultProduceTopic(topic),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()),
	)
	check(err)
	file, err := os.Open(path)
	check(err)
	reader := csv.NewReader(file)
	reader.ReuseRecord = true
	_, err = reader.Read() // the header
	check(err)
	var sent, acked int64
	key := []byte("vehicle")
	report := func(_ *kgo.Record, err error) {
		if err == nil {
			atomic.AddInt64(&acked, 1)
		}
	}
	for {
		row, err := reader.Read()
		if err == io.EOF {
			break
		}
		check(err)
		value, err := json.Marshal(detection{
			int64(number(row[0])), number(row[1]), number(row[2]), number(row[3]), number(row[4]),
			row[5], number(row[6]), number(row[7]), number(row[8]),
		})
		check(err)
		client.Produce(context.Background(), &kgo.Record{Key: key, Value: value}, report)
		sent++
	}
	check(client.Flush(context.Background()))
	if acked != sent {
		check(fmt.Errorf("%d of %d acknowledged", acked, sent))
	}
}
